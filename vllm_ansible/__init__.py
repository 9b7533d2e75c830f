"""Bare Linux hosts become OpenAI-compatible vLLM servers: the controller's side.

from vllm_ansible import ProvisionError, provision
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_ansible.provisioning import (
        Answer,
        Failure,
        HostResult,
        ProvisionError,
        ProvisionResult,
        StageResult,
        TaskEvent,
        provision,
    )

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Failure",
    "HostResult",
    "ProvisionError",
    "ProvisionResult",
    "StageResult",
    "TaskEvent",
    "provision",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: Ansible's plugins need none of ansible-runner."""
    if name in __all__:
        from vllm_ansible import provisioning  # noqa: PLC0415

        return getattr(provisioning, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
