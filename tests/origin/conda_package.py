"""Writes real conda packages (``.conda``, format 2) from a directory laid out as a prefix.

The layout of ``info/`` follows conda's documentation, "Package specification".
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conda_package_streaming.create import (
    anonymize,
    conda_builder,
)

from tests.origin.workshop import sha256

# One fixed date for all members: equal contents give equal packages.
_EPOCH = 1_760_000_000
_COMPRESSION = 9


@dataclass(frozen=True)
class Package:
    """What a conda package says about itself.

    Attributes:
        name: the package's name.
        version: its version.
        license: SPDX expression.
        summary: one line.
        depends: match specifications of what it needs.
        noarch: a package of pure Python, for any version and platform.
        entry_points: ``name = module:function`` lines that conda makes programs of.
        placeholder: the prefix written in the files, to be replaced on installation.
    """

    name: str
    version: str
    license: str
    summary: str
    depends: tuple[str, ...] = ()
    noarch: bool = False
    entry_points: tuple[str, ...] = field(default=())
    placeholder: str = ""

    @property
    def subdir(self) -> str:
        """The channel's directory it belongs to."""
        return "noarch" if self.noarch else "linux-64"


def write(package: Package, tree: Path, channel: Path) -> Path:
    """Packs a tree into a channel directory, its ``info/`` made here.

    Args:
        package: the metadata.
        tree: the files, laid out as in a prefix; ``info`` is added to it.
        channel: the channel's root.

    Returns:
        The package's path.
    """
    files = sorted(p for p in tree.rglob("*") if p.is_symlink() or not p.is_dir())
    entries = [_entry(path, tree, package.placeholder) for path in files]
    paths = json.dumps({"paths": entries, "paths_version": 1}, indent=1)
    # The build string depends on the contents: caches keyed by it never hold another package.
    build = f"{'py' if package.noarch else 'h'}{hashlib.sha256(paths.encode()).hexdigest()[:7]}_0"
    _write_info(package, build, tree, entries, paths)
    directory = channel / package.subdir
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"{package.name}-{package.version}-{build}"
    with conda_builder(stem, directory, compression_level=_COMPRESSION) as archive:
        for path in sorted(p for p in tree.rglob("*") if p.is_symlink() or not p.is_dir()):
            archive.add(
                str(path), path.relative_to(tree).as_posix(), recursive=False, filter=_stable
            )
    return _with_fixed_dates(directory / f"{stem}.conda")


def _with_fixed_dates(package: Path) -> Path:
    """Writes the outer zip again: the builder gives its members the time of day."""
    fresh = package.with_suffix(".new")
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(fresh, "w") as target:
        for member in source.infolist():
            target.writestr(
                zipfile.ZipInfo(member.filename, (2025, 1, 1, 0, 0, 0)), source.read(member)
            )
    return fresh.replace(package)


def _stable(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member = anonymize(member)
    member.mtime = _EPOCH
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


def _entry(path: Path, tree: Path, placeholder: str) -> dict[str, Any]:
    content = path.read_bytes()
    entry: dict[str, Any] = {
        "_path": path.relative_to(tree).as_posix(),
        "path_type": "softlink" if path.is_symlink() else "hardlink",
        "sha256": sha256(path),
        "size_in_bytes": len(content),
    }
    if placeholder and not path.is_symlink() and placeholder.encode() in content:
        entry |= {"prefix_placeholder": placeholder, "file_mode": "text"}
    return entry


def _write_info(
    package: Package, build: str, tree: Path, entries: list[dict[str, Any]], paths: str
) -> None:
    info = tree / "info"
    info.mkdir()
    index: dict[str, Any] = {
        "name": package.name,
        "version": package.version,
        "build": build,
        "build_number": 0,
        "depends": list(package.depends),
        "license": package.license,
        "subdir": package.subdir,
        "timestamp": _EPOCH * 1000,
        "arch": None if package.noarch else "x86_64",
        "platform": None if package.noarch else "linux",
    }
    if package.noarch:
        index["noarch"] = "python"
        link = {"type": "python", "entry_points": list(package.entry_points)}
        _dump(info / "link.json", {"noarch": link, "package_metadata_version": 1})
    _dump(info / "index.json", index)
    _dump(info / "about.json", {"summary": package.summary, "license": package.license})
    (info / "paths.json").write_text(paths)
    (info / "files").write_text("".join(f"{entry['_path']}\n" for entry in entries))
    prefixed = [e["_path"] for e in entries if "prefix_placeholder" in e]
    if prefixed:
        lines = "".join(f"{package.placeholder} text {path}\n" for path in prefixed)
        (info / "has_prefix").write_text(lines)
    licenses = [tree / e["_path"] for e in entries if Path(e["_path"]).name.startswith("LICENSE")]
    if licenses:
        (info / "licenses").mkdir()
        (info / "licenses" / "LICENSE.txt").write_bytes(licenses[0].read_bytes())


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
