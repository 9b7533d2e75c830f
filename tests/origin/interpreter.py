"""Finds the CPythons of this machine: pyenv's, PATH's, or one that uv manages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.origin.errors import OriginError
from tests.origin.workshop import Progress

# Without the first there is no channel; the others are in it where this machine has them.
WANTED = "3.10"
OTHERS = ("3.11", "3.12")
_QUESTION = """
import json, platform, sys, sysconfig
print(json.dumps({
    "version": platform.python_version(),
    "implementation": sys.implementation.name,
    "prefix": sys.base_prefix,
    "stdlib": sysconfig.get_path("stdlib"),
    "include": sysconfig.get_path("include"),
    "configured": sysconfig.get_config_var("prefix"),
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A CPython installation.

    Attributes:
        version: such as ``3.10.13``.
        prefix: the installation's root.
        stdlib: its standard library.
        include: its headers.
        configured: the prefix written into its build data, which may differ from ``prefix``.
    """

    version: str
    prefix: Path
    stdlib: Path
    include: Path
    configured: str

    @property
    def minor(self) -> str:
        """Its version as programs and directories are called by it, such as ``3.10``."""
        return ".".join(self.version.split(".")[:2])

    @property
    def program(self) -> Path:
        """The interpreter itself, no shim and no environment's link."""
        return self.prefix / "bin" / f"python{self.minor}"

    def identity(self) -> str:
        """Returns what changes when another interpreter takes this one's place."""
        stat = self.program.stat()
        return f"{self.version} {self.program} {stat.st_size} {stat.st_mtime_ns}"


def find(cache: Path) -> Interpreter:
    """Returns the first complete CPython 3.10 found; uv may install one, as the last resort.

    Args:
        cache: a directory of the caller; remembers the answer, because asking takes half a second.

    Raises:
        OriginError: none is found and uv cannot get one; names every place looked at.
    """
    found, seen = _search(cache, WANTED, install=True)
    if found:
        return found
    raise OriginError(
        f"no CPython {WANTED} with headers on this machine, which the lab's conda channel is made "
        f"from. Looked at: {'; '.join(seen) or 'nothing was there'}. Install one: pyenv install "
        f"{WANTED}, or uv python install {WANTED}, or put python{WANTED} on PATH."
    )


def find_others(cache: Path, progress: Progress) -> list[Interpreter]:
    """Returns the newer CPythons that are here; nothing is installed for them.

    Args:
        cache: as for :func:`find`.
        progress: called with a line for each that is missing.
    """
    others = []
    for wanted in OTHERS:
        found, seen = _search(cache, wanted, install=False)
        if found:
            others.append(found)
        else:
            looked = "; ".join(seen) or "nothing was there"
            progress(f"origin: the channel goes without Python {wanted} (looked at: {looked})")
    return others


def _search(cache: Path, wanted: str, *, install: bool) -> tuple[Interpreter | None, list[str]]:
    """Returns the first installation that will do, and why those before it will not."""
    note = cache / "state" / f"interpreter-{wanted}.txt"
    seen: list[str] = []
    for candidate in _candidates(note, wanted, install=install):
        found, why = _examine(candidate, wanted)
        if found:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(str(found.program))
            return found, seen
        seen.append(f"{candidate}: {why}")
    return None, seen


def _candidates(note: Path, wanted: str, *, install: bool) -> Iterator[str]:
    """Yields interpreters to examine, cheapest first; a later source is asked only if needed."""
    if note.is_file():
        yield note.read_text()
    yield from _pyenv(wanted)
    for directory in os.get_exec_path():
        program = Path(directory) / f"python{wanted}"
        if program.is_file():
            yield str(program)
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv:
        for attempt in (False, True) if install else (False,):
            if attempt:
                _run([uv, "python", "install", "--quiet", wanted])
            words = ["python", "find", "--system", "--no-project", "--no-python-downloads", wanted]
            answer = _run([uv, *words])
            if answer:
                yield answer


def _pyenv(wanted: str) -> Iterator[str]:
    roots = [os.environ.get("PYENV_ROOT"), str(Path.home() / ".pyenv")]
    for root in dict.fromkeys(filter(None, roots)):
        prefixes = Path(root).glob(f"versions/{wanted}.*")
        # The newest patch release first: 3.10.13 after 3.10.9.
        for prefix in sorted(prefixes, key=lambda p: p.name.rjust(12, " "), reverse=True):
            yield str(prefix / "bin" / f"python{wanted}")


def _examine(candidate: str, wanted: str) -> tuple[Interpreter | None, str]:
    """Returns the installation behind a program, or why it will not do."""
    answer = _run([candidate, "-I", "-c", _QUESTION])
    if not answer:
        return None, "does not run"
    facts = json.loads(answer)
    if facts["implementation"] != "cpython" or not facts["version"].startswith(f"{wanted}."):
        return None, f"is {facts['implementation']} {facts['version']}"
    found = Interpreter(
        version=facts["version"],
        prefix=Path(facts["prefix"]).resolve(),
        stdlib=Path(facts["stdlib"]),
        include=Path(facts["include"]),
        configured=facts["configured"],
    )
    if not (found.include / "Python.h").is_file():
        return None, "has no headers (Python.h)"
    return (found, "") if found.program.is_file() else (None, f"{found.program} is not there")


def _run(command: list[str]) -> str:
    """Returns a program's output, or nothing when it fails: another place is looked at then."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=300, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
