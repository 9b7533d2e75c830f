"""Action: has a model fetched on the host, and says how far it is while that goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vllm_ansible.following import Follower, Interruption, interruption
from vllm_ansible.progress import fetching

MODULE = "model_snapshot"
# Seconds between two looks: the first comes soon, since most models are there already.
SOONEST, LATEST = 1.0, 5.0
# What is worth a line: so much more of the whole (percent), or so long since the last one (looks).
STEP, QUIET = 10, 6


class ActionModule(Follower):
    """Runs the module of the same name; its result is the module's own.

    The work is begun on the host and looked at, so that it outlives a lost connection; when the
    run is interrupted, it is ended on the host. Without `progress`, and in check mode, the module
    runs as any other.
    """

    work = "model"

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Fetches the model unless it is there; fails as the module does."""
        result = super().run(tmp, task_vars)
        given = self._task.args
        if self._task.check_mode or not given.get("progress") or given.get("step"):
            return result | self._module(MODULE)
        self.work = f"model {given.get('name')}"
        with interruption() as interrupted:
            answer = self._follow(interrupted)
            if interrupted.asked:
                self._stop()
                answer = {"failed": True, "msg": "interrupted; what was fetched stays"}
        return result | answer

    def _follow(self, interrupted: Interruption) -> dict[str, Any]:
        """Looks on until the work has ended or the run is to end; returns the last answer."""
        answer = self._module(MODULE, step="start")
        pause, shown = SOONEST, (-STEP, QUIET)
        while answer.get("phase") == "running" and not interrupted.asked:
            shown = self._tell(answer.get("progress") or {}, *shown)
            interrupted.wait(pause)
            pause = min(pause * 1.5, LATEST)
            answer = self._patiently(lambda: self._module(MODULE, step="look"), interrupted)
        return answer

    def _tell(self, seen: dict[str, Any], share: int, silent: int) -> tuple[int, int]:
        """Prints a line if there is news.

        Args:
            seen: How far the work is.
            share: Percent of which the last line told.
            silent: Looks since then.

        Returns:
            `share` and `silent` for the next look.
        """
        if not seen:
            return share, silent + 1
        total = seen.get("total")
        now = 100 * int(seen.get("done") or 0) // total if total else 0
        other = seen.get("phase") != self._phase
        self._phase = str(seen.get("phase"))
        if not other and silent + 1 < QUIET and abs(now - share) < STEP:
            return share, silent + 1
        self._show(fetching(seen))
        return now, 0

    _phase = ""

    def _stop(self) -> None:
        """Ends the work on the host; where that is out of reach, it ends when nobody looks."""
        try:
            self._module(MODULE, step="stop")
        except AnsibleConnectionFailure:
            return
