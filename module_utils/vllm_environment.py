"""What a Python environment of ours holds, and whether somebody has changed it since."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ansible.module_utils.vllm_files import CHUNK
from ansible.module_utils.vllm_release import COMPLETE, read_marker

if TYPE_CHECKING:
    from collections.abc import Iterator

# The package that people are told to edit by hand: its files are looked at every time.
WATCHED = "vllm"
# Seconds: file systems and clocks are not exact.
SLACK = 2.0
# What Python makes by itself.
BYTECODE = "__pycache__"
# They come with an environment, or by the module that fills it.
TOOLS = {"pip", "setuptools", "wheel", "uv"}


class Flaw(NamedTuple):
    """What is wrong with a file: altered, missing, added; and the package that it is of."""

    what: str
    package: str


class Repair(NamedTuple):
    """What brings an environment back to what was made.

    Attributes:
        strangers: packages that somebody has added.
        pins: versions of packages that conda had brought, by name.
        again: packages that lack files or have altered ones.
        altered: files that are about to be replaced.
    """

    strangers: list[str]
    pins: dict[str, str]
    again: list[str]
    altered: list[Path]

    def needed(self) -> bool:
        """Say whether there is anything to do."""
        return any(self)


def site_packages(prefix: Path) -> Path | None:
    """Return where an environment's packages lie; None when it has no such place."""
    return next(iter(sorted(prefix.glob("lib/python3.*/site-packages"))), None)


def conda_listing(prefix: Path) -> list[str]:
    """Return the conda packages of an environment, as name-version-build."""
    return sorted(path.name[: -len(".json")] for path in prefix.glob("conda-meta/*.json"))


def installed(prefix: Path) -> list[str]:
    """Return what lies in an environment's site-packages: packages, modules, their dist-info."""
    place = site_packages(prefix)
    return sorted({one.name for one in place.iterdir()} - {BYTECODE}) if place else []


def normalise(name: str) -> str:
    """Return a package name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def dist_name(folder: str) -> str:
    """Return the normalised name of the package whose dist-info directory this is."""
    return normalise(folder.rsplit(".", 1)[0].rsplit("-", 1)[0])


def conda_pins(prefix: Path) -> dict[str, str]:
    """Return the Python packages that conda has put into an environment: versions by name."""
    found: dict[str, str] = {}
    for path in prefix.glob("conda-meta/*.json"):
        for name in conda_record(path).get("files") or []:
            match = re.search(r"site-packages/([^/]+)-([^/-]+)\.dist-info/METADATA$", str(name))
            if match:
                found[normalise(match.group(1))] = match.group(2)
    return found


def conda_record(path: Path) -> dict[str, Any]:
    """Return what conda has noted of a package; nothing where that cannot be read."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def record_of(place: Path, folder: str) -> dict[str, str]:
    """Return the checksums that a package's RECORD states, by path below site-packages.

    Paths without one (bytecode, the RECORD itself) have an empty checksum.
    """
    try:
        with (place / folder / "RECORD").open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, ValueError, csv.Error):
        return {}
    return {row[0]: row[1] if len(row) > 1 else "" for row in rows}


def checksum(path: Path, stated: str) -> str:
    """Return a file's checksum in the form that its RECORD states it."""
    digest = hashlib.new(stated.partition("=")[0] or "sha256")
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    text = base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")
    return f"{stated.partition('=')[0]}={text}"


def flaw(path: Path, stated: str) -> str | None:
    """Return what is wrong with a file of a package; None when it is as it was installed."""
    try:
        return None if not stated or checksum(path, stated) == stated else "altered"
    except FileNotFoundError:
        return "missing"
    except (OSError, ValueError) as error:
        return f"unreadable: {error}"


def files_below(folder: Path) -> Iterator[tuple[Path, float]]:
    """Yield each file below a directory with the time of its content, without bytecode."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name != BYTECODE:
                yield from files_below(Path(entry.path))
        elif not entry.name.endswith(".pyc"):
            yield Path(entry.path), entry.stat(follow_symlinks=False).st_mtime


def watched_flaws(prefix: Path, since: float) -> dict[Path, Flaw]:
    """Return what is wrong with the files of vLLM itself that are newer than their installation.

    Args:
        prefix: the environment.
        since: when they were last known to be right, in seconds since 1970.
    """
    place = site_packages(prefix)
    folder = next((n for n in installed(prefix) if re.fullmatch(r"vllm-[^-]+\.dist-info", n)), None)
    stated = record_of(place, folder) if place and folder else {}
    if place is None or not stated:
        return {}
    found: dict[Path, Flaw] = {}
    present: set[str] = set()
    for path, changed in files_below(place / WATCHED):
        name = path.relative_to(place).as_posix()
        present.add(name)
        if name not in stated:
            found[path] = Flaw("added", WATCHED)
        elif changed > since + SLACK:
            wrong = flaw(path, stated[name])
            if wrong:
                found[path] = Flaw(wrong, WATCHED)
    for name in stated:
        if name.startswith(f"{WATCHED}/") and not name.endswith(".pyc") and name not in present:
            found[place / name] = Flaw("missing", WATCHED)
    return found


def all_flaws(prefix: Path) -> dict[Path, Flaw]:
    """Return what is wrong with any file of any package: every byte is read."""
    place = site_packages(prefix)
    if place is None:
        return {}
    found = dict(watched_flaws(prefix, since=float("inf")))
    by_conda = conda_pins(prefix)
    for folder in installed(prefix):
        # What conda has put in is proved by conda's own notes: it rewrites what it installs.
        if not folder.endswith(".dist-info") or dist_name(folder) in by_conda:
            continue
        for name, stated in record_of(place, folder).items():
            path = Path(os.path.normpath(place / name))
            wrong = None if name.endswith(".pyc") else flaw(path, stated)
            if wrong:
                found[path] = Flaw(wrong, dist_name(folder))
    return found


def conda_flaws(prefix: Path) -> dict[Path, str]:
    """Return what is wrong with any file of any conda package: every byte is read."""
    found: dict[Path, str] = {}
    for meta in prefix.glob("conda-meta/*.json"):
        for entry in (conda_record(meta).get("paths_data") or {}).get("paths") or []:
            name, plain = str(entry.get("_path", "")), not entry.get("prefix_placeholder")
            wanted = entry.get("sha256_in_prefix") or (entry.get("sha256") if plain else None)
            path = prefix / name
            if not wanted or name.endswith(".pyc") or path.is_symlink():
                continue
            stated = base64.urlsafe_b64encode(bytes.fromhex(wanted)).decode().rstrip("=")
            wrong = flaw(path, f"sha256={stated}")
            if wrong:
                found[path] = wrong
    return found


def listing_changes(stated: list[str] | None, found: list[str]) -> dict[str, str]:
    """Return what was added to and what is missing from a listing; nothing where none was made."""
    if stated is None:
        return {}
    added = {name: "added" for name in found if name not in set(stated)}
    return {**added, **{name: "missing" for name in stated if name not in set(found)}}


def flaws_of(prefix: Path, marker: dict[str, Any], *, deep: bool) -> dict[Path, Flaw]:
    """Return what is wrong with the files of packages.

    Args:
        prefix: the environment.
        marker: its marker.
        deep: whether every byte of every package is read, or only what is newer of vLLM itself.
    """
    return all_flaws(prefix) if deep else watched_flaws(prefix, float(marker.get("proved") or 0))


def owners(prefix: Path) -> dict[str, str]:
    """Return which package has brought each entry of site-packages."""
    place = site_packages(prefix)
    found: dict[str, str] = {}
    for folder in installed(prefix) if place else []:
        if folder.endswith(".dist-info"):
            for name in record_of(place or prefix, folder):
                found.setdefault(name.split("/", 1)[0], dist_name(folder))
    return found


def repair(
    prefix: Path,
    marker: dict[str, Any],
    pins: dict[str, str],
    present: dict[str, str],
    *,
    deep: bool,
) -> Repair:
    """Return what brings the packages back to what was made.

    Args:
        prefix: the environment.
        marker: its marker; without a listing only what is there is looked at.
        pins: the versions that it was filled with, by name.
        present: the versions that are there.
        deep: whether every byte of every package is read.
    """
    by_conda = {n: v for n, v in conda_pins(prefix).items() if n not in pins}
    known = {*pins, *by_conda, *TOOLS}
    gone = [n for n, w in listing_changes(marker.get("installed"), installed(prefix)).items()
            if w == "missing"]  # fmt: skip
    whose = owners(prefix) if gone else {}
    flaws = flaws_of(prefix, marker, deep=deep)
    again = {whose[name] for name in gone if name in whose}
    again |= {flaw.package for flaw in flaws.values() if flaw.what != "added"}
    return Repair(
        strangers=sorted(name for name in present if name not in known),
        pins={n: v for n, v in by_conda.items() if present.get(n) != v},
        again=sorted(name for name in again if name in pins),
        altered=[path for path, flaw in flaws.items() if flaw.what == "altered"],
    )


def strays(prefix: Path, marker: dict[str, Any], *, deep: bool) -> list[Path]:
    """Return what lies among the packages and belongs to none."""
    place = site_packages(prefix) or prefix
    changes = listing_changes(marker.get("installed"), installed(prefix))
    found = [place / name for name, what in changes.items() if what == "added"]
    flaws = flaws_of(prefix, marker, deep=deep)
    return found + [path for path, flaw in flaws.items() if flaw.what == "added"]


def differences(prefix: Path, *, deep: bool) -> list[tuple[str, str, str]]:
    """Return how an environment differs from what was made: kind, path, what is wrong.

    Args:
        prefix: the environment.
        deep: whether every byte of every package is read.
    """
    marker = read_marker(prefix) or {}
    if marker.get("stage") != COMPLETE:
        return [("release", str(prefix), str(marker.get("stage") or "no marker"))]
    found = [
        ("conda package", str(prefix / "conda-meta" / f"{name}.json"), what)
        for name, what in listing_changes(marker.get("conda"), conda_listing(prefix)).items()
    ]
    place = site_packages(prefix) or prefix
    found += [
        ("package", str(place / name), what)
        for name, what in listing_changes(marker.get("installed"), installed(prefix)).items()
    ]
    flaws = flaws_of(prefix, marker, deep=deep)
    found += [("package file", str(path), flaw.what) for path, flaw in sorted(flaws.items())]
    if deep:
        found += [("conda file", str(p), what) for p, what in sorted(conda_flaws(prefix).items())]
    return found
