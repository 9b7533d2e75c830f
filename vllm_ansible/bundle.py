"""What a bundle carries, derived from the plans: nothing is listed a second time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vllm_ansible.plan.result import HostPlan, canonical

# How the installers of Miniconda say what they run on.
_ARCHITECTURE = re.compile(r"-Linux-(\w+)\.sh$")
# A mirror of a site tells an index's name in its address.
_MIRRORED = re.compile(r"/pypi/([A-Za-z0-9_-]+)/simple/?$")


class BundleError(Exception):
    """The plans cannot be carried in one bundle; the message says which and the way out."""


def select(plans: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything that hosts with these plans fetch.

    Args:
        plans: Plans of hosts, as `HostPlan` dumps them.

    Returns:
        `architecture`; `installers`, `environments`, `packages` (sets of the module
        bundle_wheels), `index_names`, `snapshots`, `os_packages`, each entry once; and `hosts`
        (name, plan's digest, release), for people.

    Raises:
        BundleError: There are no plans, or they differ in what can be only one thing.
    """
    known = [HostPlan.model_validate(dict(plan)) for plan in plans]
    if not known:
        raise BundleError("there are no plans: a bundle is made for an inventory with servers")
    indexes = [url for plan in known for url in [*plan.packages.indexes, _default(plan)] if url]
    return {
        "architecture": _architecture(known),
        "installers": _installers(known),
        "environments": _unique(_environment(plan) for plan in known),
        "packages": _unique(entry for plan in known for entry in _packages(plan)),
        "index_names": {u: m.group(1) for u in indexes if (m := _MIRRORED.search(u))},
        "snapshots": _unique(_snapshot(model) for plan in known for model in plan.models),
        "os_packages": sorted({name for plan in known for name in plan.apt}),
        "hosts": [{"host": p.host, "plan": p.digest, "release": p.release.id} for p in known],
    }


def _default(plan: HostPlan) -> str:
    return plan.packages.default_index or ""


def _unique(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each entry once, in the order in which they come."""
    return list({canonical(entry): entry for entry in entries}.values())


def _architecture(plans: list[HostPlan]) -> str:
    """What all hosts run on, as the installers' names say it."""
    matches = {plan.host: _ARCHITECTURE.search(plan.miniconda.filename) for plan in plans}
    found = {host: match.group(1) for host, match in matches.items() if match}
    if len(found) < len(matches) or len(set(found.values())) > 1:
        said = ", ".join(f"{plan.host}: {plan.miniconda.filename}" for plan in plans)
        raise BundleError(
            f"one bundle is for one architecture, and the installers' names say more or nothing "
            f"({said}): make a bundle for each with --limit"
        )
    return next(iter(found.values()))


def _installers(plans: list[HostPlan]) -> list[dict[str, Any]]:
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


def _environment(plan: HostPlan) -> dict[str, Any]:
    """One conda environment and what it is solved from, by channels with their mirrors' names."""
    condarc = plan.miniconda.condarc
    channels: dict[str, str] = {}
    for place, url in enumerate(condarc.get("default_channels", [])):
        channels.setdefault("main" if place == 0 else url.rstrip("/").rsplit("/", 1)[-1], url)
    for name, base in condarc.get("custom_channels", {}).items():
        channels.setdefault(name, f"{base.rstrip('/')}/{name}")
    entry = {
        "packages": plan.environment.packages,
        "installer": plan.miniconda.filename,
        "sha256": plan.miniconda.sha256,
        "condarc": condarc,
        "channels": [{"name": name, "url": url} for name, url in channels.items()],
    }
    return {"name": canonical(entry)[:12], **entry}


def _packages(plan: HostPlan) -> list[dict[str, Any]]:
    """The release's packages; and uv, which pip installs from the default index alone."""
    common = {"python": plan.release.python, "default_index": plan.packages.default_index}
    return [
        {**common, "requirements": plan.packages.requirements, "indexes": plan.packages.indexes},
        {**common, "requirements": [f"uv=={plan.packages.uv}"], "indexes": []},
    ]


def _snapshot(model: Any) -> dict[str, Any]:
    """A model without its place on the host."""
    dumped: dict[str, Any] = model.model_dump(
        mode="json", include={"name", "revision", "sources", "include", "files"}
    )
    return dumped
