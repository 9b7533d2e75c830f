"""Files that are there whole or not at all, and their checksums."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.vllm_errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sync_directory(path: Path) -> None:
    """Make a rename inside a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[int | None]:
    """Hold a directory alone and yield the open file that does; None when another run holds it.

    A process that dies lets go of it, unless one that inherited the file goes on.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
        else:
            yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def held(directory: Path, purpose: str) -> Iterator[int]:
    """Make a directory, hold it alone, and yield the open file that does.

    Args:
        directory: made with its parents, mode 0755.
        purpose: what a run does with it, for the message: "another run is ...".

    Raises:
        HostError: another run holds it.
    """
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    with locked(directory) as handle:
        if handle is None:
            raise HostError(f"another run is {purpose}; wait for it to end")
        yield handle


def write_atomic(path: Path, data: bytes, mode: int) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it.

    Args:
        path: the file; its parents are made with mode 0755.
        data: all of its bytes.
        mode: permission bits, set before the file has its final name.

    Raises:
        OSError: the directory cannot be written, or the disk is full.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    sync_directory(path.parent)


def as_json(content: Any) -> str:
    """Return JSON with sorted keys, so that equal content is equal text."""
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_json_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None when there is no such file.

    Raises:
        ValueError: the file holds something else than one JSON object.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, not an object")  # noqa: TRY004
    return content


def nearest_existing(path: Path) -> Path:
    """Return the path itself or its nearest parent that exists."""
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def free_bytes(path: Path) -> int:
    """Return the free bytes of the file system where a path is or would be made."""
    return shutil.disk_usage(nearest_existing(path)).free


def require_free(path: Path, wanted: int, purpose: str) -> None:
    """Refuse to begin what cannot fit.

    Raises:
        HostError: fewer than `wanted` bytes are free where `path` is or would be.
    """
    free = free_bytes(path)
    if free < wanted:
        raise HostError(
            f"{purpose} needs {wanted >> 20} MiB of free disk at {nearest_existing(path)}, and"
            f" {free >> 20} MiB are free; free some space or mount a larger disk there",
            needed_bytes=wanted,
            free_bytes=free,
        )


def remove_tree(path: Path, base: Path) -> None:
    """Remove a directory that is ours: strictly below `base`, and no link.

    Raises:
        HostError: the path is a link, or lies outside of `base`.
    """
    if path.is_symlink() or base.resolve() not in path.resolve().parents:
        raise HostError(
            f"{path} is not a directory below {base}, so it is not removed; look at it by hand"
        )
    shutil.rmtree(path)
