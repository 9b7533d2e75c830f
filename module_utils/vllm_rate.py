"""A bound on bytes per second that several downloads share."""

from __future__ import annotations

import threading
import time

BURST = 0.25  # seconds' worth of bytes that may come at once


class Rate:
    """Lets bytes pass at a rate; who asks for more waits."""

    def __init__(self, limit: float | None) -> None:
        """Let `limit` bytes pass per second, or all of them when None."""
        self.limit = limit
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def spend(self, count: int) -> None:
        """Wait until `count` bytes, which have come, are within the rate."""
        if not self.limit:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - BURST) + count / self.limit
            wait = self._free_at - now
        if wait > 0:
            time.sleep(wait)
