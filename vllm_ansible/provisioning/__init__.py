"""Run the whole chain from Python and get typed results or a typed error."""

from vllm_ansible.answers import Answer
from vllm_ansible.provisioning.result import (
    Failure,
    HostResult,
    ProvisionError,
    ProvisionResult,
    StageResult,
)
from vllm_ansible.provisioning.run import TaskEvent, provision

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
