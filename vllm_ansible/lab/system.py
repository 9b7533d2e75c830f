"""The operating system underneath: programs, mounts and processes, without any policy."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm_ansible.lab.errors import LabError

Progress = Callable[[str], None]
_TAIL = 15


def run(
    *argv: str | Path,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and capture what it says.

    Args:
        argv: Program and arguments.
        stdin: Text for its standard input.
        env: Variables added to the environment.
        check: Whether a status other than 0 is an error.
        timeout: Seconds after which it is killed.

    Returns:
        Status and output.

    Raises:
        LabError: It failed; the message has the command and its last lines.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            env={**os.environ, **(env or {}), "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout,
        )
    except FileNotFoundError as error:
        raise LabError(f"{words[0]}: no such program on this computer") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{' '.join(words)}` was stopped after {timeout:.0f} s") from error
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-_TAIL:]
        raise LabError(f"`{' '.join(words)}` ended with {done.returncode}: " + "\n".join(said))
    return done


# -- mounts ---------------------------------------------------------------------------------


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def mounts(pid: int | str = "self") -> list[tuple[Path, str, str]]:
    """List a process's mounts, in the order in which they were made.

    Returns:
        (mount point, file system type, super block options) of each; empty when the process
        has ended.
    """
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        left, _, right = line.partition(" - ")
        point, (kind, _, options) = left.split()[4], right.split(" ", 2)
        found.append((Path(_unescape(point)), kind, _unescape(options)))
    return found


def unmount_below(path: Path) -> list[Path]:
    """Unmount everything at and below a path, the youngest first.

    Returns:
        The mount points that were unmounted.
    """
    points = [point for point, _, _ in mounts() if point == path or path in point.parents]
    for point in reversed(points):
        if run("umount", point, check=False).returncode != 0:
            run("umount", "--lazy", point)
    return points


def remove_tree(path: Path) -> bool:
    """Remove a directory with all it has, never reaching through a mount.

    Returns:
        Whether there was one.
    """
    if not path.exists() and not path.is_symlink():
        return False
    unmount_below(path)
    run("rm", "-rf", "--one-file-system", path)
    return True


# -- processes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """A process, known by its number and its start so that a reused number is not mistaken."""

    pid: int
    started: str
    argv: tuple[str, ...]

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return _started(self.pid) == self.started

    def send(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _started(pid: int) -> str | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    # proc(5): field 3 is the state, field 22 the start; a zombie has ended.
    return None if fields[0] in ("Z", "X") else fields[19]


def processes() -> Iterator[Process]:
    """List this computer's processes."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        started = _started(int(entry.name))
        if started is None:
            continue
        try:
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        yield Process(int(entry.name), started, tuple(argv[:-1]))


def parent_of(pid: int) -> int | None:
    """Return the number of a process's parent; None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[1])


def wait_gone(found: Iterable[Process], seconds: float) -> list[Process]:
    """Wait until processes have ended.

    Args:
        found: The processes.
        seconds: How long to wait at most.

    Returns:
        Those that still run.
    """
    left, deadline = list(found), time.monotonic() + seconds
    while left := [process for process in left if process.alive()]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return left


def kill(found: Iterable[Process], seconds: float = 5) -> None:
    """Kill processes at once and wait until they are gone.

    Raises:
        LabError: One does not die.
    """
    wanted = list(found)
    for process in wanted:
        process.send(signal.SIGKILL)
    if left := wait_gone(wanted, seconds):
        names = ", ".join(f"{process.pid} ({process.argv[:1]})" for process in left)
        raise LabError(f"these processes do not die: {names}; a reboot of this computer ends them")
