"""Action: the tokens of gated models, from vaults and files on the controller, for one task."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vllm_ansible.inventory import GROUP, read_host


class ActionModule(ActionBase):  # type: ignore[misc]
    """Returns `tokens` by fingerprint, as the sources of a plan name them in `credential`.

    Of the host itself or, with `servers: true`, of all servers of the run, whose models a mirror
    host fetches. Contacts no host. The task that asks wants `no_log`.
    """

    _VALID_ARGS = frozenset(("servers",))

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Reads the words; a file that cannot be read fails with its name."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        hosts = [str(variables["inventory_hostname"])]
        if self._task.args.get("servers"):
            hosts = list(variables["groups"].get(GROUP, []))
        tokens: dict[str, str] = {}
        try:
            for host in hosts:
                tokens |= read_host(host, variables["hostvars"], self._loader).tokens()
        except OSError as error:
            return result | {"failed": True, "msg": f"token_file: {error}"}
        return result | {"changed": False, "tokens": tokens}
