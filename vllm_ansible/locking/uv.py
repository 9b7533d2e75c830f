"""uv as the resolver. Where it looks is its own configuration: no index is named here."""

from __future__ import annotations

import subprocess
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The oldest glibc that every locked file runs on: llguidance has no older wheel.
GLIBC = "2.31"


class LockError(Exception):
    """A lock cannot be made: what could not be resolved, and why."""


@dataclass(frozen=True)
class Question:
    """What uv is to resolve.

    Attributes:
        requirements: What is asked for, a requirement per line.
        python: Version of Python, such as 3.10.
        before: Files uploaded on this day (YYYY-MM-DD, UTC) or later are not looked at.
        overrides: Requirements that replace whatever packages ask for.
        leave_out: Packages that are not wanted, whatever asks for them.
        kept: Pins that stay as they are where that is possible.
    """

    requirements: list[str]
    python: str
    before: str | None = None
    overrides: list[str] = field(default_factory=list)
    leave_out: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def _compile(folder: Path, asked: str, question: Question, *words: str) -> str:
    """Runs `uv pip compile` on a file in a folder and returns what it prints."""
    command = ["uv", "pip", "compile", asked, "--quiet", "--no-annotate", "--no-header"]
    command += ["--python-version", question.python]
    command += ["--python-platform", f"x86_64-manylinux_{GLIBC.replace('.', '_')}"]
    if question.before is not None:
        command += ["--exclude-newer", f"{question.before}T00:00:00Z"]
    done = subprocess.run(
        [*command, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LockError(done.stderr.strip())
    return done.stdout


def resolve(question: Question) -> list[str]:
    """All requirements with their versions, `name==version`.

    Raises:
        LockError: There is no solution, or an index does not answer.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, lines in {
            "asked": question.requirements,
            "overrides": question.overrides,
            "excludes": question.leave_out,
            "kept": question.kept,
        }.items():
            (folder / f"{file}.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")
        words = ["--no-build", "--overrides", "overrides.txt", "--excludes", "excludes.txt"]
        # uv prefers the versions that stand in the file that it is about to write.
        _compile(folder, "asked.txt", question, *words, "--output-file", "kept.txt")
        lines = (folder / "kept.txt").read_text("utf-8").splitlines()
    return [line for line in lines if "==" in line]


def distributions(pins: list[str], question: Question) -> dict[str, dict[str, Any]]:
    """What uv says of each pin's files (`wheels`, `sdist`: url and hashes), by name.

    Named are the files for x86_64 Linux with `GLIBC` and the question's Python alone: with every
    platform's a lock would be thirty times as long.

    Raises:
        LockError: An index does not answer.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pins.txt").write_text("".join(f"{pin}\n" for pin in pins), "utf-8")
        text = _compile(folder, "pins.txt", question, "--no-deps", "--format", "pylock.toml")
    return {package["name"]: package for package in tomllib.loads(text)["packages"]}


def hashes(distribution: dict[str, Any]) -> list[str]:
    """The SHA-256 of a distribution's wheels, sorted."""
    return sorted(wheel["hashes"]["sha256"] for wheel in distribution.get("wheels", []))
