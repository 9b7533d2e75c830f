"""Action: tells what differs on all hosts of a run, as a table and as JSON."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vllm_ansible.drift import Drift, HostDrift, table

display = Display()
_WIDTH = 160
# What a host was asked in this run, the last first.
_ASKED = ("vllm_site_looked", "vllm_planned", "vllm_webui_planned")


class ActionModule(ActionBase):  # type: ignore[misc]
    """Prints a table, writes `report` (JSON, on the controller), and fails where there is drift.

    Each of `hosts` has said what differs in `vllm_site_looked`; of one that has not, it is told
    that nobody could look at it.
    """

    _VALID_ARGS = frozenset(("deep", "hosts", "report"))

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Tells; the run ends with an error where something differs."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        hostvars = (task_vars or {})["hostvars"]
        names = self._task.args["hosts"]
        drift = Drift(deep=bool(self._task.args.get("deep")))
        drift.hosts = [_said(name, hostvars[name]) for name in names]
        text = io.StringIO()
        Console(file=text, width=_WIDTH).print(table(drift))
        display.display(text.getvalue())
        report = self._task.args.get("report")
        if report:
            content = drift.model_dump(mode="json")
            Path(report).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        wrong = bool(drift.drifted or drift.unseen)
        return result | {"changed": False, "failed": wrong, "msg": drift.verdict()}


def _said(name: str, variables: Mapping[str, Any]) -> HostDrift:
    """What a host said, or why it did not."""
    asked = [variables.get(one) or {} for one in _ASKED]
    if asked[0].get("drift"):
        return HostDrift.model_validate(dict(asked[0]["drift"]))
    silent = next((one for one in asked if one.get("unreachable")), None)
    why = "unreachable" if silent else "failed"
    said = (silent or asked[0]).get("msg") or "it did not answer"
    return HostDrift(host=name, error=f"{why}: {said}")
