"""Action: starts or joins a build on the host, shows its progress, and publishes its wheel."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vllm_ansible.following import Follower
from vllm_ansible.progress import building, clock


class ActionModule(Follower):
    """Does all the steps of the module of the same name, or the one step that is asked for."""

    work = "build"

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Builds what is not published yet; fails with the end of the build's log."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        if self._task.args.get("step"):
            return result | self._step(self._task.args["step"])
        seen = self._step("look")
        if seen.get("failed") or seen["phase"] == "published":
            return result | seen
        if self._task.check_mode:
            return result | seen | {"changed": True, "msg": "would build the wheel"}
        seen = self._step("start")
        seen = seen if seen.get("failed") else self._wait()
        seen = seen if seen.get("failed") else self._step("publish")
        return result | seen | {"changed": not seen.get("failed")}

    def _step(self, step: str) -> dict[str, Any]:
        """One step on the host."""
        return self._module("build_wheel", step=step)

    def _wait(self) -> dict[str, Any]:
        """Follows the build to its end."""
        every = int(self._task.args.get("every", 10))
        while True:
            seen = self._patiently(lambda: self._step("look"))
            if seen.get("failed") or seen["phase"] in {"ended", "published"}:
                if not seen.get("failed"):
                    self._show(f"compiled, {clock(seen['elapsed'])}; the wheel is examined")
                return seen
            if seen["phase"] != "running":
                return self._failure(seen)
            self._show(building(seen))
            time.sleep(every)

    @staticmethod
    def _failure(seen: dict[str, Any]) -> dict[str, Any]:
        """The failed task's result: why, the log's end, and where the rest is."""
        steps = seen.get("progress")
        where = f" at step {steps['done']} of {steps['total']}" if steps else ""
        text = f"the build failed{where}: {seen['reason']}. The log's end ({seen['log']}):"
        return {**seen, "failed": True, "msg": f"{text}\n{seen['tail']}"}
