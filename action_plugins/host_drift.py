"""Action: holds a host against its plans and its receipts. Changes nothing on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vllm_ansible.drift import Difference, HostDrift, PartDrift

SERVER, WEBUI, MIRROR = "server", "webui", "mirror"
_GROUPS = {SERVER: "vllm", WEBUI: "webui", MIRROR: "mirror"}
_PATHS = {SERVER: "/var/lib/vllm/receipt.json", WEBUI: "/var/lib/vllm/webui.json"}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Returns `drift` of the host: each of its parts, with what differs.

    `digests` has by part that of its plan, `reasons` why there is none. A part that the inventory
    does not want is looked for as well: what is there is left over.
    """

    _VALID_ARGS = frozenset(("deep", "mirror_root", "digests", "reasons"))

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Looks at each part of the host."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        host, groups = str(variables["inventory_hostname"]), variables["groups"]
        paths = {**_PATHS, MIRROR: f"{self._task.args['mirror_root']}/receipt.json"}
        found = HostDrift(host=host)
        for part, path in paths.items():
            wanted = host in groups.get(_GROUPS[part], [])
            digest = str(self._task.args["digests"].get(part) or "")
            looked = self._look(path, digest, variables)
            if looked.get("failed"):
                message = f"{part}: {looked.get('msg')}"
                found.error = "\n".join(filter(None, [found.error, message]))
            elif wanted:
                why = "" if digest else str(self._task.args["reasons"].get(part))
                found.parts.append(_compared(part, why, looked))
            elif looked["receipt"] is not None:
                found.parts.append(_left_over(part, path))
        return result | {"changed": False, "drift": found.model_dump(mode="json")}

    def _look(self, path: str, digest: str, variables: dict[str, Any]) -> dict[str, Any]:
        """What the module `receipt` says."""
        arguments = {"state": "check", "path": path, "plan_digest": digest}
        arguments["deep"] = self._task.args.get("deep", False)
        answer = self._execute_module("receipt", module_args=arguments, task_vars=variables)
        return dict(answer)


def _compared(part: str, why: str, looked: dict[str, Any]) -> PartDrift:
    """A part that the inventory wants; `why` its plan was not made, if so."""
    found = [Difference(**one) for one in looked["differences"] if not (why and _of_plan(one))]
    notice = f"the plan was not compared: {why}" if why else ""
    return PartDrift(part=part, differences=found, notice=notice)


def _of_plan(difference: dict[str, Any]) -> bool:
    return bool(difference["kind"] == "plan")


def _left_over(part: str, path: str) -> PartDrift:
    """A part that the inventory does not want, and that is there all the same."""
    group = f"a host of the group {_GROUPS[part]}"
    one = Difference(kind="left over", subject=path, expected="nothing", found=f"once {group}")
    return PartDrift(part=part, differences=[one])
