"""Which addresses a host is asked about before its plan is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_ansible.plan.context import Context
from vllm_ansible.plan.facts import ASSUMED

if TYPE_CHECKING:
    from vllm_ansible.data import Data
    from vllm_ansible.schema import Words


def probe_urls(words: Words, data: Data) -> list[str]:
    """The URLs whose answer changes the plan: where torch's build for CPU may be had."""
    packages = Context(words=words, facts=ASSUMED, data=data).upstream.packages
    return [*packages.torch_indexes, *packages.torch_find_links]
