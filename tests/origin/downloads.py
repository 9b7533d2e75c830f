"""Wheels from the package index, by pinned version and pinned SHA-256."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.origin.errors import OriginError
from tests.origin.workshop import HERE, Progress, sha256


def pinned(name: str) -> dict[str, str]:
    """Returns the requirement of each package of a pins file and the SHA-256 of its wheel.

    Args:
        name: a file of ``tests/origin/pins`` without its ending.
    """
    lines = (HERE / "pins" / f"{name}.txt").read_text().splitlines()
    pairs = (line.split(" --hash=sha256:") for line in lines if line and not line.startswith("#"))
    return {requirement.strip(): digest.strip() for requirement, digest in pairs}


def wheels(name: str, downloads: Path, progress: Progress) -> list[Path]:
    """Returns the wheels of a pins file, downloading those that are not kept yet.

    Args:
        name: a file of ``tests/origin/pins`` without its ending.
        downloads: the directory in which they are kept.
        progress: called with a line per download.

    Raises:
        OriginError: a wheel cannot be had, or is not the pinned one.
    """
    directory = downloads / name
    directory.mkdir(parents=True, exist_ok=True)
    found = []
    for requirement, digest in pinned(name).items():
        path = _kept(directory, digest) or _download(requirement, digest, directory, progress)
        found.append(path)
    return found


def _kept(directory: Path, digest: str) -> Path | None:
    """Returns the wheel with this digest, if it is here; the digest is part of the kept path."""
    kept = next((directory / digest[:16]).glob("*.whl"), None)
    return kept if kept and sha256(kept) == digest else None


def _download(requirement: str, digest: str, directory: Path, progress: Progress) -> Path:
    """Has pip download one wheel for Python 3.10 on Linux; pip checks the hash."""
    begun = time.monotonic()
    target = directory / digest[:16]
    target.mkdir(exist_ok=True)
    for leftover in target.iterdir():
        leftover.unlink()
    pins = target / "pin.txt"
    pins.write_text(f"{requirement} --hash=sha256:{digest}\n")
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in (28, 17)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--python-version=3.10", *platforms]
    command += ["--require-hashes", "--requirement", str(pins), "--dest", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    pins.unlink()
    path = next(target.glob("*.whl"), None)
    if done.returncode or path is None:
        reason = " ".join(line for line in done.stderr.splitlines() if "ERROR" in line)
        raise OriginError(
            f"{requirement} (sha256 {digest[:12]}...) could not be downloaded: "
            f"{reason or done.stderr[-400:].strip()} "
            f"Check that pip reaches a package index, or put the wheel into {target} yourself."
        )
    size = path.stat().st_size / 1e6
    progress(f"origin: {path.name} downloaded in {time.monotonic() - begun:.1f} s, {size:.1f} MB")
    return path
