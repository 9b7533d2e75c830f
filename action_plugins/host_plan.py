"""Action: decides everything for a host from its words and facts. Changes nothing on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vllm_ansible.data import project_data
from vllm_ansible.inventory import read_host, read_site, remember_facts
from vllm_ansible.plan import HostFacts, PlanError, plan_host
from vllm_ansible.plan.probe import probe_urls
from vllm_ansible.plan.site import Site
from vllm_ansible.schema import Words

display = Display()


class ActionModule(ActionBase):  # type: ignore[misc]
    """Returns `plan` (and `ansible_facts.vllm_plan`) and `facts`.

    Without `facts` it asks the host itself with the module `host_facts`, which then also probes
    the indexes that the host's words and mirrors' profile name. `mirror` is what the site's mirror
    host said of itself, where there is one.
    """

    _VALID_ARGS = frozenset(("facts", "mirror", "receipt_path"))

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Decides; fails with every reason why the host cannot take what is asked for."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        # A plan is long, and may hold a secret that an instance's environment needs.
        result["_ansible_verbose_override"] = True
        variables = task_vars or {}
        host = str(variables["inventory_hostname"])
        words = read_host(host, variables["hostvars"], self._loader)
        checked = words.check()
        if checked.words is None:
            return result | {"failed": True, "msg": "\n".join(map(str, checked.problems))}
        facts = self._facts(checked.words, variables)
        if facts.get("failed"):
            return result | facts
        try:
            plan = plan_host(
                checked.words, HostFacts.model_validate(facts), project_data(),
                words.key_fingerprint(), name=host, secret_fingerprints=words.secret_fingerprints(),
                site=self._site(variables),
            )  # fmt: skip
        except PlanError as error:
            return result | {"failed": True, "msg": str(error)}
        except ValidationError as error:
            return result | {"failed": True, "msg": f"{host}: facts are not as expected: {error}"}
        for notice in plan.notices:
            display.display(f"{host}: {notice}")
        remember_facts(variables.get("ansible_inventory_sources"), host, facts, display.warning)
        if not plan.packages.locked:
            return result | {"failed": True, "msg": _unlocked(host, plan.notices)}
        content = plan.model_dump(mode="json")
        return result | {
            "changed": False, "plan": content, "notices": plan.notices, "facts": facts,
            "ansible_facts": {"vllm_plan": content},
        }  # fmt: skip

    def _facts(self, words: Words, variables: dict[str, Any]) -> dict[str, Any]:
        """The facts given, or asked from the host."""
        given = self._task.args.get("facts")
        if given is not None:
            return dict(given)
        path = self._task.args.get("receipt_path", "/var/lib/vllm/receipt.json")
        # Behind a mirror host it is the mirror host that was asked what answers.
        behind = self._site(variables).mirror is not None
        arguments = {
            "probe_urls": [] if behind else probe_urls(words, project_data()),
            "receipt_path": path,
            "users": words.conda_users,
        }
        answer = self._execute_module("host_facts", module_args=arguments, task_vars=variables)
        return answer if answer.get("failed") else dict(answer["facts"])

    def _site(self, variables: dict[str, Any]) -> Site:
        """What is known of the site around the host."""
        words = read_site(variables["groups"], variables["hostvars"], self._loader)
        return Site.of(words.door, self._task.args.get("mirror") or {})


def _unlocked(host: str, notices: list[str]) -> str:
    """The error of a combination that has no lock file."""
    why = next((notice for notice in notices if "lock file" in notice), "no lock file")
    return f"{host}: {why}; what is not pinned is not installed"
