"""Which addresses a host is asked about before its plan is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_ansible.plan.context import Context
from vllm_ansible.plan.facts import ASSUMED

if TYPE_CHECKING:
    from vllm_ansible.data import Data
    from vllm_ansible.schema import Words


def probe_urls(words: Words, data: Data) -> list[str]:
    """The URLs whose answer changes the plan: the PyTorch CPU indexes."""
    return Context(words=words, facts=ASSUMED, data=data).upstream.packages.torch_indexes
