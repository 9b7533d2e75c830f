"""The plan: words and facts in, every decision out, with its reason."""

from vllm_ansible.plan.decide import plan_host
from vllm_ansible.plan.facts import HostFacts
from vllm_ansible.plan.result import HostPlan, PlanError

__all__ = ["HostFacts", "HostPlan", "PlanError", "plan_host"]
