"""Which instances a web UI offers, and whether its host can reach their doors."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from vllm_ansible.schema import problems as p
from vllm_ansible.schema.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_ansible.data import Data
    from vllm_ansible.schema.words import Instance, Webui, Words

# What the page asks of a server.
ROUTES = ("/v1/chat/completions", "/v1/models")


@dataclass(frozen=True)
class Server:
    """One server: what the inventory says of it, and the address at which Ansible reaches it."""

    words: Words | None
    address: str = ""


@dataclass(frozen=True)
class Door:
    """One instance's door, as the web UI's host sees it.

    Attributes:
        name: Server and instance, for people.
        server: The server's name, whose key opens it.
        url: The API, ending in `/v1`.
        vision: Whether the model understands images.
    """

    name: str
    server: str
    url: str
    vision: bool


def find_doors(
    host: str, webui: Webui, servers: Mapping[str, Server], here: bool, data: Data
) -> tuple[list[Door], list[Problem]]:
    """The doors that a web UI talks through, and every reason why it cannot.

    Args:
        host: The web UI's host.
        webui: What the inventory says of it.
        servers: All servers of the site, by name.
        here: Whether that host is a server itself.
        data: The project's data.
    """
    found: list[Door] = []
    problems: list[Problem] = []
    names = webui.servers or ([host] if here else list(servers))
    for index, name in enumerate(names):
        server = servers.get(name)
        if server is None:
            allowed = f"a host of the group vllm, {p.suggestion(name, servers)}"
            where = f"vllm_webui.servers[{index}]"
            problems.append(Problem(host, where, p.shown(name), allowed))
        elif server.words is not None:
            doors, flaws = _of_server(host, name, server.words, server.address, data)
            found += doors
            problems += flaws
    if here:
        problems += _same_port(host, webui, servers[host].words)
    complete = all(name in servers and servers[name].words is not None for name in names)
    if complete and not found and not problems:
        allowed = "servers with at least one model to talk to (of the kind text or vision)"
        problems.append(Problem(host, "vllm_webui.servers", ", ".join(names), allowed))
    return found, problems


def _of_server(
    host: str, name: str, words: Words, address: str, data: Data
) -> tuple[list[Door], list[Problem]]:
    routes = words.gateway.routes
    missing = [] if routes is None else [one for one in ROUTES if one not in routes]
    if missing:
        allowed = f"{', '.join(missing)} among them, which the web UI of {host} asks"
        return [], [Problem(name, "vllm_gateway.routes", ", ".join(routes or []), allowed)]
    reached = _address(words.gateway.listen, address, here=host == name)
    if reached is None:
        allowed = f"an address at which {host}, which has the web UI, reaches the server"
        given = ", ".join(words.gateway.listen)
        return [], [Problem(name, "vllm_gateway.listen", given, allowed)]
    known = {**data.models, **words.models}
    kinds = [(one, known[one.model].kind) for one in words.instances]
    return [
        Door(_called(name, one), name, f"http://{reached}:{one.port}/v1", kind == "vision")
        for one, kind in kinds
        if kind != "embedding"
    ], []


def _called(server: str, instance: Instance) -> str:
    return f"{server}/{instance.name}"


def _address(listen: Sequence[str], ansible_host: str, *, here: bool) -> str | None:
    """Where the door is reached, as a URL writes it; None where it is on another's loopback."""
    addresses = [ip_address(one) for one in listen]
    loopback = [one for one in addresses if one.is_loopback]
    everywhere = [one for one in addresses if one.is_unspecified]
    others = [one for one in addresses if not one.is_loopback and not one.is_unspecified]
    if here:
        chosen = [*loopback, *(ip_address("127.0.0.1") for _ in everywhere), *others]
    else:
        try:
            chosen = others or [ip_address(ansible_host) for _ in everywhere]
        except ValueError:
            chosen = []
    text = str(chosen[0]) if chosen else None
    return f"[{text}]" if text and ":" in text else text


def _same_port(host: str, webui: Webui, words: Words | None) -> list[Problem]:
    taken = [one.name for one in (words.instances if words else []) if one.port == webui.port]
    if not taken:
        return []
    allowed = f"a port of its own (the instance {taken[0]} has the same)"
    return [Problem(host, "vllm_webui.port", str(webui.port), allowed)]
