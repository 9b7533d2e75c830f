"""Action: lists a host's model snapshots, and removes on request those that nobody uses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vllm_ansible.data import project_data
from vllm_ansible.inventory import read_host
from vllm_ansible.pruning import table, wanted

display = Display()


class ActionModule(ActionBase):  # type: ignore[misc]
    """Runs the module of the same name, told besides what the inventory names for `servers`.

    The words of all of these are read, also of those that a `--limit` leaves out.
    """

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Prints a table; fails when the inventory does not say what is in use."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = dict(self._task.args)
        keep = set(arguments.get("keep") or [])
        for server in arguments.pop("servers", []):
            checked = read_host(server, variables["hostvars"], self._loader).check()
            if checked.words is None:
                problems = "\n".join(map(str, checked.problems))
                return result | {"failed": True, "msg": problems}
            keep |= wanted(checked.words, project_data())
        arguments["keep"] = sorted(keep)
        answer = self._execute_module("model_prune", module_args=arguments, task_vars=variables)
        host, root = variables["inventory_hostname"], str(arguments.get("root", "/srv/models"))
        if not answer.get("failed"):
            display.display(f"\n{host}: {root}\n{table(answer, root)}\n")
        # The list is long, and has just been shown.
        said = {"host": host, "root": root, "_ansible_verbose_override": True}
        return result | dict(answer) | said
