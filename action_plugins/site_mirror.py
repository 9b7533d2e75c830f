"""Action: asks the site's mirror host what it holds, and decides what it shall hold."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vllm_ansible.data import project_data
from vllm_ansible.inventory import GROUP, WEBUI, read_host, read_site, remember_facts
from vllm_ansible.plan import PlanError
from vllm_ansible.plan.mirror import plan_mirror
from vllm_ansible.plan.probe import probe_urls
from vllm_ansible.plan.result import Needs

display = Display()
# Whose needs the mirror host serves: group, the fact that holds the plan, and what errors call it.
_PLANS = ((GROUP, "vllm_plan", ""), (WEBUI, "vllm_webui_plan", " (web UI)"))
_STATES = ("asked", "planned")


class ActionModule(ActionBase):  # type: ignore[misc]
    """`state: asked` returns `mirror`, the host's facts; `planned` returns `plan`.

    The first is delegated to the mirror host before the servers' plans are made; the second runs on
    it afterwards and merges what the servers of this run need. Neither changes anything.
    """

    _VALID_ARGS = frozenset(("state",))

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Asks or decides; fails with every reason why the servers cannot share one mirror host."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        state = self._task.args.get("state", "planned")
        if state not in _STATES:
            return result | {"failed": True, "msg": f"state: {state!r}; allowed: asked, planned"}
        site = read_site(variables["groups"], variables["hostvars"], self._loader)
        if site.mirror is None:
            return result | {"changed": False, "mirror": {}, "plan": None}
        if state == "asked":
            return result | self._asked(site.mirror, site.words.root, variables)
        hostvars = variables["hostvars"]
        plans = {
            f"{host}{mark}": hostvars[host].get(name)
            for group, name, mark in _PLANS
            for host in variables["groups"].get(group, [])
        }
        needs = {h: Needs.model_validate(dict(plan["needs"])) for h, plan in plans.items() if plan}
        if not needs:
            display.display(f"{site.mirror}: no server is in this run, so it is left as it is")
            return result | {"changed": False, "plan": None}
        try:
            plan = plan_mirror(
                site.mirror, site.words, site.address, needs, *self._also(site.mirror, variables)
            )
        except PlanError as error:
            return result | {"failed": True, "msg": str(error)}
        return result | {"changed": False, "plan": plan.model_dump(mode="json")}

    def _also(self, host: str, variables: dict[str, Any]) -> list[Any]:
        """What changes the mirror host beside its plan."""
        hostvars = variables["hostvars"]
        said = read_host(host, hostvars, self._loader).variables["__role_variables__"]
        # Where its own packages come from is no part of it.
        own = {name: said[name] for name in said if name.startswith(("mirror_", "model_"))}
        asked = [hostvars[one].get("vllm_site_mirror") for one in variables["groups"][GROUP]]
        facts: dict[str, Any] = next(
            (one["mirror"] for one in asked if one and one.get("mirror")), {}
        )
        named = [facts.get(name) for name in ("nameservers", "ipv6")]
        return [project_data().code_digest, own, *named]

    def _asked(self, host: str, root: str, variables: dict[str, Any]) -> dict[str, Any]:
        """What the mirror host says of itself, on the way to the servers' plans."""
        urls: set[str] = set()
        for server in variables["groups"].get(GROUP, []):
            words = read_host(server, variables["hostvars"], self._loader).check().words
            urls |= set(probe_urls(words, project_data())) if words else set()
        arguments = {"root": root, "urls": sorted(urls)}
        answer = self._execute_module("mirror_facts", module_args=arguments, task_vars=variables)
        if answer.get("failed"):
            return dict(answer)
        found = dict(answer["facts"])
        remember_facts(variables.get("ansible_inventory_sources"), host, found, display.warning)
        return {"changed": False, "mirror": found, "root": root}
