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
from vllm_ansible.inventory import HostWords, read_host, read_site, remember_facts
from vllm_ansible.plan import HostFacts, HostPlan, PlanError, plan_host
from vllm_ansible.plan.probe import probe_urls
from vllm_ansible.plan.site import Site
from vllm_ansible.schema import Words

display = Display()
RECEIPT = "/var/lib/vllm/receipt.json"
# The hosts that need nothing more in this run.
DONE = "vllm_done"


class ActionModule(ActionBase):  # type: ignore[misc]
    """Returns `plan` (and `ansible_facts.vllm_plan`) and `facts`.

    Without `facts` it asks the host itself with the module `host_facts`, which then also probes
    the indexes that the host's words and mirrors' profile name. `mirror` is what the site's mirror
    host said of itself, where there is one.

    With a `question` the host is compared with its receipt as well (each byte with `deep`), and its
    instances are asked: `receipt` says in `differences` what is not as it should be. A host where
    nothing differs joins the group `vllm_done`, which the stages leave out, unless `vllm_fast_path`
    is false.
    """

    _VALID_ARGS = frozenset(("deep", "facts", "mirror", "question", "receipt_path"))

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
        answer = self._facts(checked.words, variables)
        if answer.get("failed"):
            return result | answer
        facts = dict(answer["facts"])
        try:
            plan = self._plan(host, words, checked.words, facts, variables)
        except PlanError as error:
            return result | {"failed": True, "msg": str(error)}
        result |= {
            "changed": False, "plan": plan.model_dump(mode="json"), "notices": plan.notices,
            "facts": facts, "ansible_facts": {"vllm_plan": plan.model_dump(mode="json")},
        }  # fmt: skip
        if self._task.args.get("question") is not None:
            result |= _compared(plan, answer, fast_path=checked.words.fast_path)
        return result

    def _plan(
        self, host: str, said: HostWords, words: Words, facts: dict[str, Any],
        variables: dict[str, Any],
    ) -> HostPlan:  # fmt: skip
        """The plan; its notices are shown and the facts are kept for `scripts/plan`.

        Raises:
            PlanError: The host cannot take what is asked for.
        """
        try:
            known = HostFacts.model_validate(facts)
        except ValidationError as error:
            raise PlanError(host, [f"facts are not as expected: {error}"]) from error
        plan = plan_host(
            words, known, project_data(), said.key_fingerprint(), name=host,
            secret_fingerprints=said.secret_fingerprints(), site=self._site(variables),
        )  # fmt: skip
        for notice in plan.notices:
            display.display(f"{host}: {notice}")
        remember_facts(variables.get("ansible_inventory_sources"), host, facts, display.warning)
        if not plan.packages.locked:
            why = next((one for one in plan.notices if "lock file" in one), "no lock file")
            raise PlanError(host, [f"{why}; what is not pinned is not installed"])
        return plan

    def _facts(self, words: Words, variables: dict[str, Any]) -> dict[str, Any]:
        """The facts given, or what the host says."""
        given = self._task.args.get("facts")
        if given is not None:
            return {"facts": given}
        path = self._task.args.get("receipt_path", RECEIPT)
        # Behind a mirror host it is the mirror host that was asked what answers.
        behind = self._site(variables).mirror is not None
        arguments = {
            "probe_urls": [] if behind else probe_urls(words, project_data()),
            "receipt_path": path,
            "users": words.conda_users,
            "question": self._task.args.get("question") or "",
            "compare": self._task.args.get("question") is not None,
            "deep": self._task.args.get("deep", False),
        }
        return dict(self._execute_module("host_facts", module_args=arguments, task_vars=variables))

    def _site(self, variables: dict[str, Any]) -> Site:
        """What is known of the site around the host."""
        words = read_site(variables["groups"], variables["hostvars"], self._loader)
        return Site.of(words.door, self._task.args.get("mirror") or {})


def _compared(plan: HostPlan, answer: dict[str, Any], *, fast_path: bool) -> dict[str, Any]:
    """What differs between the host and its plan and receipt, and whether it is done."""
    receipt = answer["compared"]
    other = _other_plan(plan, receipt["receipt"])
    differences = [*other, *receipt["differences"], *_silent(plan, answer["answers"])]
    found = {**receipt, "current": not differences, "differences": differences}
    if differences or not fast_path:
        return {"receipt": found}
    return {"receipt": found, "answers": answer["answers"], "add_group": DONE}


def _other_plan(plan: HostPlan, receipt: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The difference that another plan is, as the module `receipt` tells it."""
    found = (receipt or {}).get("plan_digest")
    if receipt is None or found == plan.digest:
        return []
    return [{"kind": "plan", "subject": "digest", "expected": plan.digest, "found": found}]


def _silent(plan: HostPlan, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The instances that did not answer the question, as differences."""
    said = {one["name"]: one for one in answers}
    quiet = [one for one in plan.instances if "answer" not in said.get(one.name, {})]
    return [
        {
            "kind": "answer", "subject": one.unit, "expected": "an answer to a question",
            "found": said.get(one.name, {}).get("error", "it was not asked"),
        }
        for one in quiet
    ]  # fmt: skip
