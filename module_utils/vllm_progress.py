"""How far a download is, written to a file for whoever looks while it runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ansible.module_utils.vllm_files import as_json, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PERIOD = 1.0  # seconds between two looks
WINDOW = 10  # looks over which the rate is taken
FORMAT = 1


class Progress:
    """The state of a download; a thread measures it once a second and writes it.

    A write that fails is no reason to stop a download.
    """

    def __init__(self, path: Path | None, said: dict[str, Any]) -> None:
        """Write to `path`, or nowhere when None; `said` is in each writing."""
        self.path, self.said = path, said
        self._measure: Callable[[], tuple[int, int]] | None = None
        self._seen: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._started = time.time()
        self._end = threading.Event()

    def phase(
        self, name: str, measure: Callable[[], tuple[int, int]] | None = None, **said: Any
    ) -> None:
        """Say what is being done, and how its bytes are counted: those here, and all of them."""
        self._measure = measure
        self._seen.clear()
        self.said = {**self.said, "phase": name, **said}
        self.write()

    def state(self) -> dict[str, Any]:
        """Return what is written: see the module's documentation of C(progress)."""
        measure, now = self._measure, time.time()
        done, total = (0, 0) if measure is None else measure()
        self._seen.append((now, done))
        (first, had), rate = self._seen[0], 0.0
        if now > first:
            rate = max(0.0, (done - had) / (now - first))
        left = (total - done) / rate if rate and total else None
        return {
            "format": FORMAT,
            **self.said,
            "done": done,
            "total": total or None,
            "rate": round(rate),
            "left": None if left is None else round(left),
            "started": round(self._started),
            "updated": round(now),
        }

    def write(self) -> None:
        """Write the state, if anybody wants it."""
        if self.path is None:
            return
        with contextlib.suppress(OSError):
            write_atomic(self.path, as_json(self.state()).encode(), 0o644)

    def _run(self) -> None:
        while not self._end.wait(PERIOD):
            self.write()

    @contextlib.contextmanager
    def shown(self) -> Iterator[Progress]:
        """Measure and write until the end; the file is removed then."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._end.set()
            thread.join()
            if self.path is not None:
                with contextlib.suppress(OSError):
                    self.path.unlink(missing_ok=True)
