"""One change of labs at a time on this computer."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from vllm_ansible.lab.system import Progress

# An existing directory is locked, not a file of our own: nothing is left, and nothing that a
# second program waits on can be removed under it. The lock goes with the process that holds it.
_DIRECTORY = "/var/lib"


@contextmanager
def locked(progress: Progress) -> Iterator[None]:
    """Hold the lock; wait for it as long as another program has it."""
    descriptor = os.open(_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another program that changes a lab")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
