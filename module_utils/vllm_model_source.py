"""What every source of a model's files has in common. Each kind is a class in a file of its own."""

from __future__ import annotations

import fnmatch
import posixpath
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ansible.module_utils.vllm_model_store import Content

if TYPE_CHECKING:
    from ansible.module_utils.vllm_model_store import Store


class Order(NamedTuple):
    """What is asked of every source.

    Attributes:
        revision: The commit, unless a source says one of its own.
        include: Shell patterns of the files wanted.
        files: The given manifest: size and sha256 by path.
        parallel: Files at the same time.
        limit: Bytes per second, or None.
        timeout: Seconds for one command, or one file.
        clients: The environment of the hubs' clients.
        partial: The download's directory, for what a source keeps for itself.
        lock: An open file that holds it; what a source starts inherits it.
    """

    revision: str
    include: list[str]
    files: dict[str, dict[str, Any]]
    parallel: int
    limit: float | None
    timeout: float
    clients: Path
    partial: Path
    lock: int

    def wants(self, name: str) -> bool:
        """Tell whether a pattern chooses a file, by its path or the last part of it."""
        texts = (name, posixpath.basename(name))
        return any(fnmatch.fnmatchcase(t, pattern) for pattern in self.include for t in texts)

    def given(self) -> dict[str, Content]:
        """Return what the given manifest says in full of the files wanted."""
        return {
            name: Content(str(said["sha256"]), int(said["size"]))
            for name, said in self.files.items()
            if self.wants(name) and {"sha256", "size"} <= set(said)
        }


class Source:
    """One place to have a model's files from.

    Attributes:
        proof: What its list of sizes and checksums rests on: `git`, `manifest`, `archive`, `hub`.
        limited: Whether it can hold to a number of bytes per second.
    """

    proof = "manifest"
    limited = False

    def __init__(self, said: dict[str, Any], order: Order, store: Store, token: str | None) -> None:
        """Use the source that an inventory describes; nothing is asked yet."""
        self.url: str = said["url"]
        self.revision: str = said.get("revision") or order.revision
        self.said, self.order, self.store, self.token = said, order, store, token

    def contents(self) -> dict[str, Content]:
        """Return the files wanted, by path.

        Small ones may be in the store already, where the source tells no checksum of them.

        Raises:
            HostError: the source cannot be read, or has something that is refused.
        """
        raise NotImplementedError

    def fetch(self, missing: dict[str, Content]) -> str:
        """Have what is missing in the store; the caller proves it, and says what did not come.

        Returns:
            What the client said in the end, for the message; empty when it said nothing.

        Raises:
            HostError: it cannot be had.
        """
        raise NotImplementedError

    def begun(self, contents: dict[str, Content]) -> dict[str, list[Path]]:
        """Return the files in which the client keeps what it has begun, by SHA-256."""
        del contents
        return {}

    def seed(self, contents: dict[str, Content]) -> None:
        """Hand the client what other sources have begun."""

    def passing(self, missing: dict[str, Content]) -> int:
        """Return the bytes of disk that it needs for a while, besides what it brings."""
        del missing
        return 0

    def measure(self, contents: dict[str, Content]) -> tuple[int, int]:
        """Return how many bytes are on the disk, and of how many."""
        total = sum(content.size for content in set(contents.values()))
        return self.store.sizes(contents, self.begun(contents)), total
