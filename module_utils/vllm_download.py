"""Bytes from a URL, bounded in time; an interrupted download goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_files import CHUNK
from ansible.module_utils.vllm_urls import tls_context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ansible.module_utils.vllm_rate import Rate

PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416
# What goes wrong between here and a server; a HostError besides.
TROUBLE = (OSError, ValueError, http.client.HTTPException)


class PlaceError(OSError):
    """The file cannot be written here: another source would not help."""


@contextlib.contextmanager
def here() -> Iterator[None]:
    """Tell errors of this host's disk from those of a source.

    Raises:
        PlaceError: in the place of any error of the operating system.
    """
    try:
        yield
    except OSError as error:
        raise PlaceError(error.errno, error.strerror, error.filename) from error


def put(target: Any, piece: bytes) -> None:
    """Write all of a piece; an unbuffered file may take only some of it at a time.

    Raises:
        PlaceError: it cannot be written.
    """
    rest = memoryview(piece)
    with here():
        while rest:
            rest = rest[target.write(rest) :]


def explain(error: Exception) -> str:
    """Return why a source did not serve, in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"status {error.code} {error.reason}"
    if isinstance(error, http.client.IncompleteRead):
        return f"broke off after {len(error.partial)} bytes of a piece"
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return "no byte within the timeout"
    return str(reason) or type(error).__name__


def open_url(url: str, timeout: float, start: int = 0, token: str | None = None) -> Any:
    """Ask for a URL's bytes, from `start` on where the server can do that.

    A token goes to the URL's own host, and to none that this one sends us on to.

    Raises:
        OSError: the source refused or could not be reached.
    """
    headers = {"User-Agent": "vllm-ansible"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the inventory's URL
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return urllib.request.urlopen(request, timeout=timeout, context=tls_context())  # noqa: S310


def read_url(url: str, timeout: float, limit: int, token: str | None = None) -> bytes:
    """Return what a URL serves; `timeout` is seconds without a byte.

    Raises:
        HostError: it is more than `limit` bytes.
        OSError: the source refused or could not be reached.
    """
    with open_url(url, timeout, token=token) as answer:
        text: bytes = answer.read(limit + 1)
    if len(text) > limit:
        raise HostError(f"{url} serves more than {limit} bytes")
    return text


def copy(answer: Any, target: Any, digest: Any, deadline: float, rate: Rate | None = None) -> int:
    """Copy an answer's body into an open file and a digest; return the number of bytes.

    Args:
        answer: what `open_url` returned.
        target: binary file.
        digest: of hashlib, or None.
        deadline: by `time.monotonic()`.
        rate: what holds it back; nothing when None.

    Raises:
        HostError: the deadline is past, or fewer bytes came than were announced.
        PlaceError: the file cannot be written.
    """
    begun, size, announced = time.monotonic(), 0, answer.headers.get("Content-Length")
    # read1 comes back with whatever has arrived, so that the deadline is looked at in time.
    while piece := answer.read1(CHUNK):
        put(target, piece)
        if digest is not None:
            digest.update(piece)
        size += len(piece)
        if rate is not None:
            rate.spend(len(piece))
        if time.monotonic() > deadline:
            raise HostError(f"too slow: {size} bytes in {deadline - begun:g} s")
    if announced is not None and int(announced) != size:
        raise HostError(f"broke off after {size} of {announced} bytes")
    return size


def download(url: str, target: Any, timeout: float, total: float) -> str:
    """Copy what a URL serves into an open file and return its SHA-256.

    Args:
        url: the source.
        target: binary file, written from its start.
        timeout: seconds without a byte.
        total: seconds for all of it.

    Raises:
        HostError: it took too long, or fewer bytes came than were announced.
        OSError: the source refused or could not be reached.
    """
    digest, deadline = hashlib.sha256(), time.monotonic() + total
    with open_url(url, timeout) as answer:
        copy(answer, target, digest, deadline)
    return digest.hexdigest()


def resume(
    url: str,
    path: Path,
    timeout: float,
    total: float,
    *,
    rate: Rate | None = None,
    token: str | None = None,
) -> None:
    """Complete a file that an earlier try may have begun; what came stays when this one breaks off.

    The caller proves the bytes: what lies here may be of another file, or damaged.

    Args:
        url: the source.
        path: the file; begun when missing.
        timeout: seconds without a byte.
        total: seconds for all of it.
        rate: what holds it back; nothing when None.
        token: for the URL's host.

    Raises:
        HostError: it took too long, or fewer bytes came than were announced.
        OSError: the source refused or could not be reached.
    """
    start = path.stat().st_size if path.exists() else 0
    try:
        answer = open_url(url, timeout, start, token)
    except urllib.error.HTTPError as error:
        if error.code == RANGE_NOT_SATISFIABLE and start:  # all of it is here already, or more
            return
        raise
    with answer, path.open("ab") as target:
        if answer.status != PARTIAL_CONTENT:  # a server that knows no ranges begins anew
            target.truncate(0)
        copy(answer, target, None, time.monotonic() + total, rate)
