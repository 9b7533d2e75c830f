"""Action: refuses a wrong inventory, with every error of every host, before any host is touched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vllm_ansible.inventory import GROUP, no_servers, read_host, read_site, read_webuis


class ActionModule(ActionBase):  # type: ignore[misc]
    """Checks the words of all hosts of the group `vllm`, and of the site; contacts no host."""

    _requires_connection = False
    _VALID_ARGS: frozenset[str] = frozenset()

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Returns the names of the hosts checked, or fails with one line per error."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        hosts = list(variables["groups"].get(GROUP, []))
        if not hosts:
            sources = ", ".join(variables.get("ansible_inventory_sources") or []) or "the inventory"
            return result | {"failed": True, "msg": str(no_servers(sources))}
        hostvars = variables["hostvars"]
        checked = {host: read_host(host, hostvars, self._loader).check() for host in hosts}
        problems = [problem for one in checked.values() for problem in one.problems]
        words = {host: one.words for host, one in checked.items()}
        problems += read_site(variables["groups"], hostvars, self._loader, words).problems
        problems += read_webuis(variables["groups"], hostvars, self._loader, words)[1]
        if problems:
            count = "1 error" if len(problems) == 1 else f"{len(problems)} errors"
            lines = [str(problem) for problem in problems]
            text = "\n".join([f"{count} in the inventory; no host was touched.", *lines])
            return result | {"failed": True, "msg": text}
        return result | {"changed": False, "hosts": hosts}
