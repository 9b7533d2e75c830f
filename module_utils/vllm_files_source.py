"""A model's files from a plain HTTP server, such as the site's mirror.

The server has the files of one revision below one address, and what they must be beside it:
`BASE/` and `BASE.json`, which is the manifest that a snapshot leaves, or only its `files`.
"""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ansible.module_utils.vllm_download import TROUBLE, explain, open_url, resume
from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable

SILENCE = 60  # seconds without a byte
MANIFEST_LIMIT = 64 << 20  # bytes
TRIES = 3


def require_path(name: str) -> str:
    """Return a path of a manifest.

    Raises:
        HostError: it would leave the directory.
    """
    if name.startswith("/") or {"", ".", ".."} & set(name.split("/")) or "\0" in name:
        raise HostError(f"the manifest names the file {name!r}, which is refused")
    return name


def parse_manifest(text: bytes) -> dict[str, dict[str, Any]]:
    """Return the files of a manifest by path, each with `size` in bytes and `sha256`.

    Raises:
        HostError: it is no manifest.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise HostError(f"the manifest is no JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("format"), int):
        content = content.get("files")
    if not isinstance(content, dict) or not content:
        raise HostError("the manifest names no files")
    for name, said in content.items():
        require_path(name)
        sum_ = said.get("sha256") if isinstance(said, dict) else None
        whole = isinstance(sum_, str) and re.fullmatch(r"[0-9a-f]{64}", sum_)
        if not whole or not isinstance(said.get("size"), int):
            raise HostError(f"the manifest does not say size and sha256 of {name}")
    return {name: {"size": s["size"], "sha256": s["sha256"]} for name, s in content.items()}


class FilesSource:
    """One revision's files at one address."""

    def __init__(self, url: str, parts: Path, timeout: float, parallel: int) -> None:
        """Use the server at `url`; `parts` keeps what has begun, `timeout` is seconds per file."""
        self.base, self.parts = url.rstrip("/"), parts
        self.timeout, self.parallel = timeout, parallel

    def manifest(self) -> dict[str, dict[str, Any]]:
        """Return the files that are there, by path.

        Raises:
            HostError: there is no manifest, or it is none.
        """
        url = f"{self.base}.json"
        try:
            with open_url(url, SILENCE) as answer:
                text = answer.read(MANIFEST_LIMIT)
        except TROUBLE as error:
            raise HostError(f"{url}: {explain(error)}") from error
        return parse_manifest(text)

    def fetch(self, wanted: dict[str, dict[str, Any]], place: Callable[[str], Path]) -> None:
        """Have each content, proved, at the path that `place` gives for its SHA-256.

        Args:
            wanted: files of the manifest by path.
            place: where a content is kept; what lies there is taken to be right.

        Raises:
            HostError: naming every file that could not be had whole.
        """
        self.parts.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Equal contents are fetched once.
        names = {said["sha256"]: name for name, said in wanted.items()}
        missing = sorted(name for checksum, name in names.items() if not place(checksum).is_file())
        with ThreadPoolExecutor(max(1, self.parallel)) as pool:
            tries = {n: pool.submit(self._one, n, wanted[n], place) for n in missing}
        wrong = {name: flaw for name, done in tries.items() if (flaw := done.result())}
        if wrong:
            lines = "\n".join(f"  {name}: {reason}" for name, reason in sorted(wrong.items()))
            raise HostError(f"{len(wrong)} files could not be had whole:\n{lines}", files=wrong)

    def _one(self, name: str, said: dict[str, Any], place: Callable[[str], Path]) -> str | None:
        """Fetch one file, with a second and a third chance; return why it cannot be had."""
        part, flaw = self.parts / said["sha256"], None
        for again in range(TRIES):
            time.sleep(again)
            try:
                resume(f"{self.base}/{quote(name)}", part, SILENCE, self.timeout)
            except (HostError, *TROUBLE) as error:
                flaw = explain(error)
                continue
            flaw = self._settle(part, said, place)
            if flaw is None:
                return None
        return flaw

    @staticmethod
    def _settle(part: Path, said: dict[str, Any], place: Callable[[str], Path]) -> str | None:
        """Put a whole file in its place; one with other bytes is removed, and why is returned."""
        size = part.stat().st_size
        if size < said["size"]:  # the next try goes on from here
            return f"{size} bytes instead of {said['size']}"
        found = sha256_of(part)
        if size != said["size"] or found != said["sha256"]:
            part.unlink()
            return (
                f"{size} bytes with sha256 {found} instead of {said['size']} with {said['sha256']}"
            )
        target = place(said["sha256"])
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        part.replace(target)
        return None
