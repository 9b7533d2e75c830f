"""Action: boots, repairs or removes the lab's machines, on the controller."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vllm_ansible import lab

display = Display()
_STATES = ("started", "absent")


class ActionModule(ActionBase):  # type: ignore[misc]
    """The hosts of the group ``lab_machines`` run, or are gone with all that belongs to them.

    Check mode boots as well: what it promises not to change are the hosts, and without them
    there would be nothing to check. It removes nothing.
    """

    _VALID_ARGS = frozenset(("state", "limit"))

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Does it; fails with every problem and the way out of each."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        state = self._task.args.get("state", "started")
        limit = self._task.args.get("limit") or []
        if state not in _STATES:
            return result | {"failed": True, "msg": f"state: {state!r}; allowed: started, absent"}
        groups = variables.get("groups", {})
        hosts = groups.get("lab_machines", [])
        if not hosts:
            return result | {"changed": False, "msg": "the inventory has no lab machines"}
        words = {host: _words(variables["hostvars"][host]) for host in hosts}
        try:
            spec = lab.LabSpec.from_vars(words, origin=bool(groups.get("lab_origin")))
            if state == "absent" and self._task.check_mode:
                return result | self._would_remove(spec)
            change = lab.up if state == "started" else lab.down
            report = change(spec, lambda text: display.display(f"lab: {text}"), limit)
        except lab.LabError as error:
            return result | {"failed": True, "msg": str(error)}
        for notice in report.notices:
            display.display(f"lab: notice: {notice}")
        return result | {"lab": report.as_dict(), "changed": report.changed}

    def _would_remove(self, spec: lab.LabSpec) -> dict[str, Any]:
        there = spec.state.exists()
        return {"changed": there, "msg": f"would remove the lab {spec.name}" if there else ""}


def _words(hostvars: Any) -> dict[str, Any]:
    """Take the lab's words out of a host's variables, rendering no other."""
    return {
        name: hostvars[name] for name in list(hostvars) if name in lab.WORDS or lab.misspelt(name)
    }
