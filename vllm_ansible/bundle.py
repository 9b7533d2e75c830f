"""What a bundle carries, derived from the plans: nothing is listed a second time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from packaging.utils import canonicalize_name
from pydantic import BaseModel, ConfigDict, Field

from vllm_ansible.plan.result import (
    Environment,
    Miniconda,
    ModelSnapshot,
    Needs,
    Packages,
    WheelOrder,
    canonical,
)

# How the installers of Miniconda say what they run on.
_ARCHITECTURE = re.compile(r"-Linux-(\w+)\.sh$")
# A site's mirror host tells the name of an index or channel in its address.
_MIRRORED = re.compile(r"/(?:pypi/([a-z0-9.-]+)/simple|conda/([a-z0-9.-]+))$")


class BundleError(Exception):
    """The plans cannot be carried in one bundle; the message says which and the way out."""


class Made(BaseModel):
    """An environment's name and Python."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    python: str


class Carried(BaseModel):
    """What of a host's plan, or of its web UI's, decides what is carried; it holds no secret."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    host: str
    digest: str
    release: Made
    miniconda: Miniconda
    environment: Environment
    packages: Packages
    wheel: WheelOrder | None = None
    models: list[ModelSnapshot] = Field(default_factory=list)
    apt: list[str]
    needs: Needs


def select(plans: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything that hosts with these plans fetch.

    Args:
        plans: Plans of hosts, as `HostPlan` dumps them, or the entries of `Carried` alone.

    Returns:
        `architecture`; `installers`, `environments`, `packages` (sets of the module
        bundle_wheels), `index_names`, `snapshots`, `os_packages`, each entry once; `paths` of
        installers and snapshots below a mirror's root; and `hosts` (name, plan's digest, release),
        for people.

    Raises:
        BundleError: There are no plans, or they differ in what can be only one thing.
    """
    known = [Carried.model_validate(_plain(plan)) for plan in plans]
    if not known:
        raise BundleError("there are no plans: a bundle is made for an inventory with servers")
    return {
        "architecture": _architecture(known),
        "installers": _installers(known),
        "environments": _unique(_environment(plan) for plan in known),
        "packages": _unique(entry for plan in known for entry in _packages(plan)),
        "index_names": {url: name for plan in known for url, name in _index_names(plan).items()},
        "snapshots": _unique(_snapshot(model) for plan in known for model in plan.models),
        "paths": _paths(known),
        "os_packages": sorted({name for plan in known for name in plan.apt}),
        "hosts": [{"host": p.host, "plan": p.digest, "release": p.release.id} for p in known],
    }


def _plain(value: Any) -> Any:
    """Ansible hands over containers that make their entries when asked; pydantic looks inside."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _unique(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each entry once, in the order in which they come."""
    return list({canonical(entry): entry for entry in entries}.values())


def _architecture(plans: list[Carried]) -> str:
    """What all hosts run on, as the installers' names say it."""
    matches = [_ARCHITECTURE.search(plan.miniconda.filename) for plan in plans]
    found = {match.group(1) if match else "" for match in matches}
    if "" in found or len(found) > 1:
        said = ", ".join(f"{plan.host}: {plan.miniconda.filename}" for plan in plans)
        raise BundleError(
            f"one bundle is for one architecture, and the installers' names say more or nothing "
            f"({said}): make a bundle for each with --limit"
        )
    return found.pop()


def _installers(plans: list[Carried]) -> list[dict[str, Any]]:
    """The installers of Miniconda by file name."""
    found: dict[str, dict[str, Any]] = {}
    for plan in plans:
        said = plan.miniconda.model_dump(include={"filename", "sha256", "urls"})
        other = found.setdefault(plan.miniconda.filename, said)
        if other["sha256"] != said["sha256"]:
            raise BundleError(
                f"{plan.host}: {said['filename']} has two checksums, {said['sha256']} and "
                f"{other['sha256']}: say the right one in vllm_sources.miniconda.sha256"
            )
    return list(found.values())


def _name(url: str, names: Mapping[str, str]) -> str:
    """The name by which a mirror host serves an address, which may be its own already.

    Raises:
        BundleError: The plan does not name it.
    """
    address = url.rstrip("/")
    mirrored = _MIRRORED.search(address)
    if address in names:
        return names[address]
    if mirrored:
        return str(mirrored.group(1) or mirrored.group(2))
    raise BundleError(f"{url} has no name at a mirror host: the plan's needs do not list it")


def _index_names(plan: Carried) -> dict[str, str]:
    """The names of the package indexes that a host asks, by address."""
    names = {one.url.rstrip("/"): one.name for one in plan.needs.indexes}
    default = plan.packages.default_index
    return {url: _name(url, names) for url in [*plan.packages.indexes, default] if url}


def _environment(plan: Carried) -> dict[str, Any]:
    """One conda environment and the channels it is solved from, by a mirror host's names."""
    names = {one.url.rstrip("/"): one.name for one in plan.needs.channels}
    condarc = plan.miniconda.condarc
    custom = condarc.get("custom_channels", {})
    urls = [*condarc.get("default_channels", [])]
    urls += [f"{base.rstrip('/')}/{name}" for name, base in custom.items()]
    entry = {
        "packages": plan.environment.packages,
        "installer": plan.miniconda.filename,
        "sha256": plan.miniconda.sha256,
        "condarc": condarc,
        "channels": [{"name": _name(url, names), "url": url} for url in dict.fromkeys(urls)],
    }
    return {"name": canonical(entry)[:12], **entry}


def _packages(plan: Carried) -> list[dict[str, Any]]:
    """The release's packages; and uv, which pip installs from the default index alone."""
    packages = plan.packages
    common = {"python": plan.release.python, "default_index": packages.default_index}
    hashes = {canonicalize_name(name): sums for name, sums in packages.hashes.items()}
    lines = []
    for pin in packages.requirements:
        project = canonicalize_name(pin.split("==")[0].split("[")[0])
        if plan.wheel is not None and project == canonicalize_name(plan.wheel.project):
            continue  # compiled at the site: no index has it
        lines.append(" ".join([pin, *(f"--hash=sha256:{one}" for one in hashes.get(project, []))]))
    sets = [{**common, "requirements": lines, "indexes": packages.indexes}]
    sets[0]["find_links"] = packages.find_links
    return [*sets, {**common, "requirements": [f"uv=={packages.uv}"], "indexes": []}]


def _paths(plans: list[Carried]) -> list[str]:
    """Where a mirror host keeps the installers and the snapshots, with their manifests."""
    installers = {f"store/installers/{plan.miniconda.filename}" for plan in plans}
    models = {f"models/{m.name}/{m.revision}" for plan in plans for m in plan.models}
    return sorted([*installers, *models, *(f"{path}.json" for path in models)])


def _snapshot(model: ModelSnapshot) -> dict[str, Any]:
    """A model without its place on the host."""
    dumped: dict[str, Any] = model.model_dump(
        mode="json", include={"name", "revision", "sources", "include", "files", "parallel"}
    )
    return dumped
