"""Action: starts or joins a build on the host, shows its progress, and publishes its wheel."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()
# A build outlives a lost connection; so long the host may be out of reach, in seconds.
PATIENCE = 900


def clock(seconds: float) -> str:
    """Returns seconds as people say them: 58 s, 12 min 5 s, 1 h 3 min."""
    whole = int(seconds)
    if whole < 60:  # noqa: PLR2004
        return f"{whole} s"
    if whole < 3600:  # noqa: PLR2004
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def progress_line(seen: dict[str, Any]) -> str:
    """Returns one line about a build that runs."""
    steps, elapsed = seen.get("progress"), seen.get("elapsed", 0)
    if not steps or not steps["total"]:
        return f"preparing, {clock(elapsed)}"
    done, total = steps["done"], steps["total"]
    line = f"[{done}/{total}] {100 * done // total} %, {clock(elapsed)}"
    if 0 < done < total:
        line += f", about {clock(elapsed * (total - done) / done)} left"
    return line


class ActionModule(ActionBase):  # type: ignore[misc]
    """Does all the steps of the module of the same name, or the one step that is asked for."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Builds what is not published yet; fails with the end of the build's log."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        self._variables = task_vars or {}
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
        arguments = {**self._task.args, "step": step}
        answer: dict[str, Any] = self._execute_module(
            "build_wheel", module_args=arguments, task_vars=self._variables
        )
        return answer

    def _look(self) -> dict[str, Any]:
        """Asks how far the build is, also over a connection that is lost for a while."""
        begun = time.monotonic()
        while True:
            try:
                return self._step("look")
            except AnsibleConnectionFailure:
                if time.monotonic() - begun > PATIENCE:
                    raise
                self._show("the host is out of reach; the build goes on there")
                self._connection.reset()
                time.sleep(10)

    def _show(self, text: str) -> None:
        display.display(f"{self._variables['inventory_hostname']}: build: {text}")

    def _wait(self) -> dict[str, Any]:
        """Follows the build to its end."""
        every = int(self._task.args.get("every", 10))
        shown = ""
        while True:
            seen = self._look()
            if seen.get("failed") or seen["phase"] in {"ended", "published"}:
                if not seen.get("failed"):
                    self._show(f"compiled, {clock(seen['elapsed'])}; the wheel is examined")
                return seen
            if seen["phase"] != "running":
                return self._failure(seen)
            line = progress_line(seen)
            if line != shown:
                self._show(line)
                shown = line
            time.sleep(every)

    @staticmethod
    def _failure(seen: dict[str, Any]) -> dict[str, Any]:
        """The failed task's result: why, the log's end, and where the rest is."""
        steps = seen.get("progress")
        where = f" at step {steps['done']} of {steps['total']}" if steps else ""
        text = f"the build failed{where}: {seen['reason']}. The log's end ({seen['log']}):"
        return {**seen, "failed": True, "msg": f"{text}\n{seen['tail']}"}
