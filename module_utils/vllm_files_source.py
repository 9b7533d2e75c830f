"""A model's files from a plain HTTP server, such as the site's mirror.

The server has the files of one revision below one address, and what they must be beside it:
`BASE/` and `BASE.json`, which is the manifest that a snapshot leaves, or only its `files`.
"""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from ansible.module_utils.vllm_download import TROUBLE, PlaceError, explain, read_url, resume
from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_model_source import Order, Source
from ansible.module_utils.vllm_model_store import Content, Store, require_path
from ansible.module_utils.vllm_rate import Rate

SILENCE = 60  # seconds without a byte
MANIFEST_LIMIT = 64 << 20  # bytes
TRIES = 3


def parse_manifest(text: bytes) -> dict[str, Content]:
    """Return the files of a manifest by path.

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
        require_path(name, "the manifest")
        sum_ = said.get("sha256") if isinstance(said, dict) else None
        whole = isinstance(sum_, str) and re.fullmatch(r"[0-9a-f]{64}", sum_)
        if not whole or not isinstance(said.get("size"), int):
            raise HostError(f"the manifest does not say size and sha256 of {name}")
    return {name: Content(said["sha256"], said["size"]) for name, said in content.items()}


class FilesSource(Source):  # type: ignore[misc]
    """One revision's files at one address."""

    limited = True

    def __init__(self, said: dict[str, Any], order: Order, store: Store, token: str | None) -> None:
        """Use the server at the source's URL."""
        super().__init__(said, order, store, token)
        self.base = self.url.rstrip("/")
        self.rate = Rate(order.limit)

    def contents(self) -> dict[str, Content]:
        """Return what the manifest says."""
        url = f"{self.base}.json"
        try:
            text = read_url(url, SILENCE, MANIFEST_LIMIT, self.token)
        except TROUBLE as error:
            raise HostError(f"{url}: {explain(error)}") from error
        return {n: c for n, c in parse_manifest(text).items() if self.order.wants(n)}

    def fetch(self, missing: dict[str, Content]) -> str:
        """Fetch the files, several at a time."""
        self.store.part("x").parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with ThreadPoolExecutor(max(1, self.order.parallel)) as pool:
            tries = {name: pool.submit(self._one, name, missing[name]) for name in missing}
        wrong = {name: flaw for name, done in tries.items() if (flaw := done.result())}
        return "\n".join(f"{name}: {reason}" for name, reason in sorted(wrong.items()))

    def _one(self, name: str, content: Content) -> str | None:
        """Fetch one file, with a second and a third chance; return why it cannot be had."""
        part, flaw = self.store.part(content.sha256), None
        for again in range(TRIES):
            time.sleep(again)
            url = f"{self.base}/{quote(name)}"
            try:
                resume(url, part, SILENCE, self.order.timeout, rate=self.rate, token=self.token)
            except PlaceError:
                raise
            except (HostError, *TROUBLE) as error:
                flaw = explain(error)
                continue
            size = part.stat().st_size
            if size < content.size:  # the next try goes on from here
                flaw = f"{size} bytes instead of {content.size}"
                continue
            flaw = self.store.accept(part, content)
            if flaw is None:
                return None
        return flaw
