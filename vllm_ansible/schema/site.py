"""Checks what only the hosts of a site together can be asked: its mirror and its build host."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from vllm_ansible.schema.check import check_names
from vllm_ansible.schema.problems import Problem
from vllm_ansible.schema.words import Mirror

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_ansible.schema.words import Words

# So many hosts may fetch the same things for themselves; mirrors ban those who do it more often.
MOST_WITHOUT_MIRROR = 2


@dataclass(frozen=True)
class SiteWords:
    """Who does what for the whole site.

    Attributes:
        mirror: The mirror host's name.
        words: What the inventory says of it.
        address: Where the servers reach it, without the port.
        builder: The host that compiles, where the inventory names one.
        problems: Every error.
    """

    mirror: str | None = None
    words: Mirror = field(default_factory=Mirror)
    address: str = ""
    builder: str | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def door(self) -> str | None:
        """The mirror host's address and port, as a URL writes it."""
        if self.mirror is None:
            return None
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.words.port}"


def check_site(
    groups: Mapping[str, Sequence[str]],
    variables: Mapping[str, Mapping[str, Any]],
    servers: Mapping[str, Words | None],
) -> SiteWords:
    """Checks a whole inventory for what no single host can be asked.

    Args:
        groups: The inventory's groups: `mirror` and `build` are looked at.
        variables: The variables of the hosts in them, templated and plain.
        servers: The servers' words; None where they are wrong.
    """
    problems = []
    for name in ("mirror", "build"):
        members = list(groups.get(name, []))
        if len(members) > 1:
            allowed = f"at most one host in the group {name}"
            problems.append(Problem("", f"group {name}", ", ".join(members), allowed))
    mirror = next(iter(groups.get("mirror", [])), None)
    builder = next(iter(groups.get("build", [])), None)
    for host in sorted({one for one in (mirror, builder) if one} - set(servers)):
        problems += check_names(host, variables.get(host, {}))
    if mirror is None:
        problems += _too_many(servers)
        return SiteWords(builder=builder, problems=problems)
    words, address = Mirror(), ""
    try:
        words = Mirror.model_validate(variables.get(mirror, {}).get("vllm_mirror", {}))
    except ValidationError as error:
        for one in error.errors():
            where = ".".join(["vllm_mirror", *map(str, one["loc"])])
            allowed = str(one.get("ctx", {}).get("allowed") or one["msg"])
            problems.append(Problem(mirror, where, repr(one["input"])[:80], allowed))
    else:
        address = words.address or str(variables.get(mirror, {}).get("__address__", ""))
        problems += _no_address(mirror, address)
        problems += _same_port(mirror, words.port, servers.get(mirror))
    return SiteWords(mirror, words, address, builder, problems)


def _no_address(mirror: str, address: str) -> list[Problem]:
    try:
        ip_address(address)
    except ValueError:
        allowed = "the IP address of the mirror host at which the servers reach it"
        return [Problem(mirror, "vllm_mirror.address", address or "nothing", allowed)]
    return []


def _same_port(mirror: str, port: int, served: Words | None) -> list[Problem]:
    """Refuses a door at the mirror's own port, where one host is both."""
    return [
        Problem(
            mirror, "vllm_mirror.port", str(port), f"a port of its own: {one.name} has this one"
        )
        for one in (served.instances if served else [])
        if one.port == port
    ]


def _too_many(servers: Mapping[str, Words | None]) -> list[Problem]:
    """Refuses many servers that would each fetch the same."""
    outside = [
        host
        for host, words in sorted(servers.items())
        if words is None or not words.sources.site_local
    ]
    if len(outside) <= MOST_WITHOUT_MIRROR:
        return []
    allowed = (
        f"a host in the group mirror, which fetches everything once: {len(outside)} servers would "
        f"each download it, and mirrors ban sites that do. Where vllm_sources are this site's own, "
        f"say vllm_sources.site_local: true"
    )
    return [Problem("", "group mirror", "no host", allowed)]
