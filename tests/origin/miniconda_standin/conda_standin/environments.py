"""Environments: solved and linked by py-rattler, recorded as conda records them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TypeVar

import rattler
from rattler.exceptions import GatewayError, InstallerError, InvalidMatchSpecError, SolverError

from . import VERSION
from .config import Config
from .errors import (
    CondaEnvironmentError,
    CondaError,
    CondaHTTPError,
    EnvironmentLocationNotFound,
    NoChannelsConfiguredError,
    PackagesNotFoundError,
)

_Answer = TypeVar("_Answer")


def is_environment(prefix: Path) -> bool:
    """Says whether conda sees an environment at ``prefix``."""
    return (prefix / "conda-meta" / "history").is_file()


def create(config: Config, prefix: Path, specs: list[str], channels: list[str]) -> dict[str, Any]:
    """Makes an environment, in the place of an existing one if there is one.

    Args:
        config: names the channels and the package cache.
        prefix: where to make it.
        specs: match specifications.
        channels: names or addresses; the configured ones when empty.

    Returns:
        What conda prints with ``--json``.
    """
    records = solve(config, specs, channels) if specs else []
    if is_environment(prefix):
        shutil.rmtree(prefix)
    link(config, prefix, records)
    write_history(config, prefix, records, specs)
    register(prefix)
    links = [_summary(config, record) for record in records]
    return {
        "actions": {"FETCH": [], "LINK": links, "PREFIX": str(prefix)},
        "prefix": str(prefix),
        "success": True,
    }


def solve(config: Config, specs: list[str], channels: list[str]) -> list[rattler.RepoDataRecord]:
    """Returns the packages that satisfy ``specs``, from the real channels.

    Raises:
        NoChannelsConfiguredError: there is no channel.
        CondaHTTPError: a channel cannot be read.
        PackagesNotFoundError: no set of packages satisfies them.
    """
    urls = config.channel_urls(channels or config.words["channels"])
    if not urls:
        raise NoChannelsConfiguredError(
            "No channels have been configured: give `channels` in a .condarc, or --channel."
        )
    cache = config.pkgs_dir / "cache"
    gateway = rattler.Gateway(
        cache_dir=cache,
        default_config=rattler.SourceConfig(sharded_enabled=False),
        client=_client(config),
    )
    try:
        solution: list[rattler.RepoDataRecord] = _finish(
            lambda: rattler.solve(
                [rattler.Channel(url) for url in urls],
                [rattler.MatchSpec(spec, strict=False) for spec in specs],
                gateway=gateway,
                platforms=["linux-64", "noarch"],
                virtual_packages=rattler.VirtualPackage.detect(),
                add_pip_as_python_dependency=config.words["add_pip_as_python_dependency"],
            )
        )
    except InvalidMatchSpecError as error:
        raise CondaError(f"Invalid spec: {error}") from error
    except SolverError as error:
        raise PackagesNotFoundError(
            f"The following packages are not available from current channels:\n\n  - "
            f"{' '.join(specs)}\n\nCurrent channels:\n\n  - {', '.join(urls)}\n\n{error}"
        ) from error
    return solution


def link(config: Config, prefix: Path, records: Sequence[rattler.RepoDataRecord]) -> None:
    """Fetches packages and links them into ``prefix``."""
    _finish(
        lambda: rattler.install(
            list(records),
            prefix,
            cache_dir=config.pkgs_dir,
            client=_client(config),
            show_progress=False,
        )
    )


def _client(config: Config) -> rattler.Client:
    """A client that tries again after a failure of the network, as often as configured."""
    return rattler.Client.default_client(
        max_retries=int(config.words["remote_max_retries"]),
        timeout=int(config.words["remote_read_timeout_secs"]),
    )


def _finish(attempt: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Runs a coroutine; a failure of the network becomes conda's own error."""

    async def once() -> _Answer:
        return await attempt()

    try:
        return asyncio.run(once())
    except (GatewayError, InstallerError) as error:
        raise CondaHTTPError(f"HTTP 000 CONNECTION FAILED\n{error}") from error


def write_history(
    config: Config, prefix: Path, records: Sequence[rattler.RepoDataRecord], specs: list[str]
) -> None:
    """Appends what was done to the environment's history; its presence makes it an environment."""
    meta = prefix / "conda-meta"
    meta.mkdir(parents=True, exist_ok=True)
    lines = [f"==> {time.strftime('%Y-%m-%d %H:%M:%S')} <==", f"# cmd: {' '.join(sys.argv)}"]
    lines.append(f"# conda version: {VERSION}")
    lines += [
        f"+{config.shown_name(_channel(r))}/{r.subdir}::{r.name.normalized}-{r.version}-{r.build}"
        for r in records
    ]
    if specs:
        lines.append(f"# update specs: {specs}")
    with (meta / "history").open("a", encoding="utf-8") as handle:
        handle.write("\n".join(lines) + "\n")


def remove(config: Config, prefix: Path) -> dict[str, Any]:
    """Removes a whole environment.

    Raises:
        EnvironmentLocationNotFound: there is none.
        CondaEnvironmentError: it is the base environment.
    """
    if prefix == config.root:
        raise CondaEnvironmentError(
            "cannot remove root environment, add -n NAME or -p PREFIX option"
        )
    if not is_environment(prefix):
        raise EnvironmentLocationNotFound(f"Not a conda environment: {prefix}")
    meta = (prefix / "conda-meta").glob("*.json")
    gone = [_summary(config, rattler.PrefixRecord.from_path(path)) for path in sorted(meta)]
    shutil.rmtree(prefix)
    unregister(prefix)
    actions = {"FETCH": [], "PREFIX": str(prefix), "UNLINK": gone}
    return {"actions": actions, "prefix": str(prefix), "success": True}


def packages(config: Config, prefix: Path) -> list[dict[str, Any]]:
    """Returns the packages of an environment, pip's included, in the form of ``list --json``.

    Raises:
        EnvironmentLocationNotFound: there is no environment.
    """
    if not is_environment(prefix):
        raise EnvironmentLocationNotFound(f"Not a conda environment: {prefix}")
    found: dict[str, dict[str, Any]] = {}
    for directory in sorted(prefix.glob("lib/python3.*/site-packages")):
        for distribution in distributions(path=[str(directory)]):
            if (distribution.read_text("INSTALLER") or "").strip() == "conda":
                continue
            name = distribution.metadata["Name"].lower().replace("_", "-")
            found[name] = _pypi(name, distribution.version)
    for path in (prefix / "conda-meta").glob("*.json"):
        record = rattler.PrefixRecord.from_path(path)
        found[record.name.normalized] = _summary(config, record)
    return [found[name] for name in sorted(found)]


def details(config: Config, prefix: str) -> dict[str, Any]:
    """Returns what ``env list --json`` says of one environment."""
    base = prefix == str(config.root)
    name = "base" if base else Path(prefix).name if Path(prefix).parent.name == "envs" else ""
    active = os.environ.get("CONDA_PREFIX") == prefix
    return {"active": active, "base": base, "name": name, "writable": os.access(prefix, os.W_OK)}


def environments(config: Config) -> list[str]:
    """Returns the prefixes of all known environments, the base first."""
    known = _registered() if _registry().is_file() else []
    below = [p.parent for p in config.envs_dir.glob("*/conda-meta")]
    paths = [config.root, *sorted({*below, *map(Path, known)})]
    return list(dict.fromkeys(str(p) for p in paths if is_environment(p)))


def register(prefix: Path) -> None:
    """Notes an environment in the user's list, as conda does, if there is a home to write to."""
    with contextlib.suppress(OSError):
        _registry().parent.mkdir(parents=True, exist_ok=True)
        _registry().write_text(
            "".join(f"{p}\n" for p in dict.fromkeys([*_registered(), str(prefix)]))
        )


def unregister(prefix: Path) -> None:
    """Takes an environment out of the user's list."""
    with contextlib.suppress(OSError):
        _registry().write_text("".join(f"{p}\n" for p in _registered() if p != str(prefix)))


def _registry() -> Path:
    return Path.home() / ".conda" / "environments.txt"


def _registered() -> list[str]:
    with contextlib.suppress(OSError):
        return _registry().read_text().split()
    return []


def _channel(record: Any) -> str:
    """The channel's address: that of the package less its directory and file."""
    return str(record.url).rsplit("/", 2)[0]


def _summary(config: Config, record: Any) -> dict[str, Any]:
    name, version = record.name.normalized, str(record.version)
    return {
        "base_url": _channel(record),
        "build_number": record.build_number,
        "build_string": str(record.build),
        "channel": config.channel_name(_channel(record)),
        "dist_name": f"{name}-{version}-{record.build}",
        "name": name,
        "platform": record.subdir,
        "version": version,
    }


def _pypi(name: str, version: str) -> dict[str, Any]:
    return {
        "base_url": "https://conda.anaconda.org/pypi",
        "build_number": 0,
        "build_string": "pypi_0",
        "channel": "pypi",
        "dist_name": f"{name}-{version}-pypi_0",
        "name": name,
        "platform": "pypi",
        "version": version,
    }


def dump(content: Any) -> str:
    """Returns JSON as conda prints it."""
    return json.dumps(content, indent=2, sort_keys=True)
