"""Files that change together: all are written beside their places first, and only then renamed."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_files import sync_directory
from ansible.module_utils.vllm_owners import group_id, user_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Placed(NamedTuple):
    """A file as it shall be: its path, bytes, permission bits, owner and group.

    `mtime_ns` is when it was last written, where it is to look as old as it was: a service that has
    read it since need not read it again.
    """

    path: str
    data: bytes
    mode: int
    owner: str
    group: str
    mtime_ns: int | None = None


def differs(wanted: Placed) -> bool:
    """Return whether a file has other bytes, bits or owners than it shall have, or is not there."""
    path = Path(wanted.path)
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or path.read_bytes() != wanted.data:
            return True
    except FileNotFoundError:
        return True
    try:
        owners = user_id(wanted.owner), group_id(wanted.group)
    except HostError:  # in check mode on a new host it has not been made yet
        return True
    found = status.st_uid, status.st_gid
    return stat.S_IMODE(status.st_mode) != wanted.mode or found != owners


def beside(wanted: Placed) -> Path:
    """Write a file under a temporary name in its directory, with its bits and owners.

    Raises:
        OSError: the directory cannot be written, or the disk is full.
    """
    target = Path(wanted.path)
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(wanted.data)
            os.fchown(stream.fileno(), user_id(wanted.owner), group_id(wanted.group))
            os.fchmod(stream.fileno(), wanted.mode)
            stream.flush()
            os.fsync(stream.fileno())
        if wanted.mtime_ns is not None:
            os.utime(name, ns=(wanted.mtime_ns, wanted.mtime_ns))
    except BaseException:
        Path(name).unlink()
        raise
    return Path(name)


def place(files: Sequence[Placed]) -> None:
    """Put files in their places; what can fail (disk, owners) fails before the first is replaced.

    Raises:
        OSError: a directory cannot be written, or the disk is full.
        HostError: an owner or a group is not there.
    """
    written: list[tuple[Path, Path]] = []
    try:
        for one in files:
            written.append((beside(one), Path(one.path)))  # noqa: PERF401 - what is written so far
        for temporary, target in written:
            temporary.replace(target)
    finally:
        for temporary, _ in written:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
    sync({target.parent for _, target in written})


def take_away(paths: Iterable[str]) -> list[str]:
    """Remove files, and directories of drop-ins that nothing is left in; return what was there."""
    found = [path for path in paths if os.path.lexists(path)]
    for path in map(Path, found):
        path.unlink()
        if path.parent.name.endswith(".d"):
            with contextlib.suppress(OSError):  # others' files are in it
                path.parent.rmdir()
    sync({Path(path).parent for path in found})
    return found


def sync(directories: Iterable[Path]) -> None:
    """Make renames survive a power cut."""
    for directory in directories:
        if directory.is_dir():
            sync_directory(directory)
