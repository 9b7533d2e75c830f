"""The stand-in Miniconda installer: a shell header and a payload, as constructor makes them.

The payload is the package cache of the base environment, unpacked, so that its own Python can link
it into place; py-rattler and the stand-in for ``conda`` come beside it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from conda_package_streaming.extract import extract

from tests.origin.errors import OriginError
from tests.origin.workshop import HERE, describe

FILENAME = "Miniconda3-py310_26.1.0-0-Linux-x86_64.sh"
VERSION = "py310_26.1.0-0"
DIRECTORY = "anaconda/miniconda"
_STANDIN = HERE / "miniconda_standin"
# Where genuine Miniconda says that its packages come from.
_CHANNEL = "https://repo.anaconda.com/pkgs/main"
_LEVEL = 4  # of gzip: higher ones take longer than the bridge takes for the bytes saved
_EPOCH = 1_760_000_000


def make(packages: list[Path], wheels: list[Path], staging: Path) -> dict[str, Any]:
    """Makes the installer below ``staging``.

    Args:
        packages: conda packages of the base environment.
        wheels: py-rattler and what it needs; put into the base environment as by pip.
        staging: laid out as the origin's ``www``.

    Returns:
        File name, size and SHA-256 of the installer.

    Raises:
        OriginError: pip cannot unpack the wheels.
    """
    tree = staging / "payload"
    for package in packages:
        _add_package(package, tree)
    _add_site_packages(wheels, tree / "install_tmp" / "site-packages")
    payload = _pack(tree)
    installed = sum(p.stat().st_size for p in tree.rglob("*") if p.is_file() and not p.is_symlink())
    installer = staging / DIRECTORY / FILENAME
    installer.parent.mkdir(parents=True)
    python = next(package.stem for package in packages if package.stem.startswith("python-3."))
    installer.write_bytes(_header(payload, installed, python) + payload)
    shutil.rmtree(tree)
    return describe(installer)


def _add_package(package: Path, tree: Path) -> None:
    """Unpacks a package into the cache's place and notes it for the installation."""
    target = tree / "pkgs" / package.stem
    extract(str(package), str(target))
    records = tree / "install_tmp" / "records"
    records.mkdir(parents=True, exist_ok=True)
    index = json.loads((target / "info" / "index.json").read_text())
    index |= {key: value for key, value in describe(package).items() if key != "filename"}
    (records / f"{package.stem}.index").write_text(json.dumps(index))
    url = f"{_CHANNEL}/{index['subdir']}/{package.name}"
    record = {"file_name": package.name, "url": url, "channel": _CHANNEL}
    (records / f"{package.stem}.json").write_text(json.dumps(record))


def _add_site_packages(wheels: list[Path], target: Path) -> None:
    words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    words += ["--no-deps", "--no-compile", "--target", str(target), "--python-version=3.10"]
    words += ["--only-binary=:all:", *map(str, wheels)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OriginError(f"pip could not unpack {[w.name for w in wheels]}: {done.stderr.strip()}")
    shutil.rmtree(target / "bin", ignore_errors=True)
    # pip notes where each wheel lay, a path of this machine.
    for note in target.glob("*.dist-info/direct_url.json"):
        note.unlink()
    for record in target.glob("*.dist-info/RECORD"):
        lines = record.read_text().splitlines(keepends=True)
        record.write_text("".join(sorted(line for line in lines if "direct_url.json" not in line)))
    code = _STANDIN / "conda_standin"
    shutil.copytree(code, target / code.name, ignore=shutil.ignore_patterns("__pycache__"))


def _pack(tree: Path) -> bytes:
    """Returns the tree as tar.gz; dates and owners are fixed: equal trees give equal bytes."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(
            fileobj=buffer, mode="wb", compresslevel=_LEVEL, mtime=0, filename=""
        ) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for path in sorted(tree.rglob("*")):
            archive.add(path, path.relative_to(tree).as_posix(), recursive=False, filter=_stable)
    return buffer.getvalue()


def _stable(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = _EPOCH
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def _header(payload: bytes, installed: int, python: str) -> bytes:
    """Returns the script that comes before the payload.

    Args:
        payload: what follows it.
        python: directory of the payload's own Python in the package cache; an older installation
            that is updated has another beside it.
        installed: bytes that the payload takes once unpacked.
    """
    words = {
        "VERSION": VERSION,
        "MD5": hashlib.md5(payload, usedforsecurity=False).hexdigest(),
        "MEGABYTES": str(2 * installed // 1_000_000),
        "PYTHON": python,
    }
    text = (_STANDIN / "header.sh").read_text()
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text.encode()
