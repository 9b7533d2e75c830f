"""The origin's conda channel: Pythons from this machine, pip and its kin from their wheels."""

from __future__ import annotations

import asyncio
import configparser
import email
import shutil
import zipfile
from pathlib import Path
from typing import Any

from rattler.index import index_fs

from tests.origin import conda_package, python_tree
from tests.origin.conda_package import Package
from tests.origin.errors import OriginError
from tests.origin.interpreter import Interpreter
from tests.origin.workshop import describe

MAIN = "anaconda/pkgs/main"
CONDA_FORGE = "anaconda/cloud/conda-forge"
_DEPENDS = {"pip": ("python >=3.10", "setuptools", "wheel")}


def make(interpreters: list[Interpreter], wheels: list[Path], staging: Path) -> dict[str, Any]:
    """Makes the channel with packages and the one without, both indexed.

    Args:
        interpreters: what the packages ``python`` are made from, the base environment's first.
        wheels: pure Python wheels that become noarch packages.
        staging: laid out as the origin's ``www``.

    Returns:
        Name, size and SHA-256 of each package of the base environment, by the package's name; those
        of the other Pythons by ``python`` and their version.
    """
    channel = staging / MAIN
    first, *others = interpreters
    packages = {"python": _python(first, channel)}
    for wheel in wheels:
        name = wheel.name.split("-")[0]
        packages[name] = _from_wheel(wheel, channel)
    packages |= {f"python {other.minor}": _python(other, channel) for other in others}
    index(channel)
    index(staging / CONDA_FORGE)
    return {name: describe(path) for name, path in packages.items()}


def index(channel: Path) -> None:
    """Writes the channel's ``repodata.json``, compressed and plain, for both of its directories.

    ``current_repodata.json``, which conda's classic solver asks for first, is the same text here:
    the channel holds only current packages.
    """
    for subdir in ("linux-64", "noarch"):
        (channel / subdir).mkdir(parents=True, exist_ok=True)
    asyncio.run(index_fs(channel, write_zst=True, write_shards=False))
    for subdir in ("linux-64", "noarch"):
        repodata = channel / subdir / "repodata.json"
        if not repodata.is_file():
            raise OriginError(f"the indexer wrote no {repodata}")
        shutil.copyfile(repodata, repodata.with_name("current_repodata.json"))


def _python(interpreter: Interpreter, channel: Path) -> Path:
    package = Package(
        name="python",
        version=interpreter.version,
        license="PSF-2.0",
        summary="CPython, packed for the lab from the build machine's own",
        placeholder=python_tree.PLACEHOLDER,
    )
    tree = _fresh_tree(channel)
    python_tree.copy(interpreter, tree)
    return conda_package.write(package, tree, channel)


def _fresh_tree(channel: Path) -> Path:
    """Returns an empty directory beside the channel, the same for every package."""
    tree = channel.parents[2] / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    return tree


def _from_wheel(wheel: Path, channel: Path) -> Path:
    """Turns a pure Python wheel into a noarch package."""
    name, version = wheel.name.split("-")[:2]
    tree = _fresh_tree(channel)
    packages = tree / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    info = packages / f"{name}-{version}.dist-info"
    (info / "INSTALLER").write_text("conda\n")
    # What is not listed here stays when the package is removed, and would still count as it.
    with (info / "RECORD").open("a") as record:
        record.write(f"{info.name}/INSTALLER,,\n")
    words = email.message_from_string((info / "METADATA").read_text())
    package = Package(
        name=name,
        version=version,
        license=words.get("License-Expression") or "MIT",
        summary=words.get("Summary", name),
        depends=_DEPENDS.get(name, ("python >=3.10",)),
        noarch=True,
        entry_points=_programs(info / "entry_points.txt"),
    )
    return conda_package.write(package, tree, channel)


def _programs(entry_points: Path) -> tuple[str, ...]:
    """Returns the console scripts of a distribution as ``name = module:function``."""
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    parser.read(entry_points)
    if not parser.has_section("console_scripts"):
        return ()
    return tuple(f"{name} = {target}" for name, target in parser.items("console_scripts"))
