"""Action: decides everything for a host's web UI. Changes nothing on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vllm_ansible.data import project_data
from vllm_ansible.inventory import read_host, read_site, read_webui
from vllm_ansible.plan import HostFacts, PlanError
from vllm_ansible.plan.site import Site
from vllm_ansible.plan.webui import RECEIPT, plan_webui
from vllm_ansible.schema import Words

display = Display()
# The hosts whose web UI needs nothing more in this run.
DONE = "webui_done"


class ActionModule(ActionBase):  # type: ignore[misc]
    """Returns `plan`. The passwords stay where they are: `state: logins` returns them by user.

    `mirror` is what the site's mirror host said of itself, where there is one. With `compare` the
    host is compared with its receipt as well, byte by byte with `deep`; a host where nothing
    differs joins the group `webui_done`, which the stages leave out, unless `vllm_fast_path` is
    false.
    """

    _VALID_ARGS = frozenset(("compare", "deep", "mirror", "state"))

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Decides; fails with every reason why the host cannot have what is asked for."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        result["_ansible_verbose_override"] = True
        variables = task_vars or {}
        host, hostvars = str(variables["inventory_hostname"]), variables["hostvars"]
        found = read_webui(host, variables["groups"], hostvars, self._loader)
        problems = [*found.checked.problems, *found.problems]
        if found.checked.words is None or problems:
            return result | {
                "failed": True,
                "msg": "\n".join(str(p) for p in sorted(set(problems))),
            }
        if self._task.args.get("state") == "logins":
            return result | {"changed": False, "logins": found.words.logins()}
        arguments = {"receipt_path": RECEIPT}
        facts = self._execute_module("host_facts", module_args=arguments, task_vars=variables)
        if facts.get("failed"):
            return result | dict(facts)
        site = read_site(variables["groups"], hostvars, self._loader)
        servers = {door.server for door in found.doors}
        keys = {s: read_host(s, hostvars, self._loader).key_fingerprint() for s in servers}
        try:
            plan = plan_webui(
                found.checked.words, HostFacts.model_validate(facts["facts"]), project_data(),
                found.doors, name=host, fingerprints=keys,
                logins=found.words.login_fingerprints(),
                site=Site.of(site.door, self._task.args.get("mirror") or {}),
            )  # fmt: skip
        except PlanError as error:
            return result | {"failed": True, "msg": str(error)}
        except ValidationError as error:
            return result | {"failed": True, "msg": f"{host}: facts are not as expected: {error}"}
        for notice in plan.notices:
            display.display(f"{host}: {notice}")
        result |= {"changed": False, "plan": plan.model_dump(mode="json")}
        if self._task.args.get("compare"):
            result |= self._compared(plan.digest, found.checked.words, variables)
        return result

    def _compared(self, digest: str, words: Words, variables: dict[str, Any]) -> dict[str, Any]:
        """What differs between the host and its receipt, and whether it is done."""
        arguments = {"state": "check", "path": RECEIPT, "plan_digest": digest}
        arguments["deep"] = self._task.args.get("deep", False)
        found = self._execute_module("receipt", module_args=arguments, task_vars=variables)
        if found.get("failed"):
            return dict(found)
        done = found["current"] and words.fast_path
        return {"receipt": dict(found)} | ({"add_group": DONE} if done else {})
