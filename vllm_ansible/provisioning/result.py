"""What a run of the chain returns: what was done per host and stage, and what models answered."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vllm_ansible.answers import Answer


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StageResult(_Frozen):
    """What one stage did on one host.

    Attributes:
        ok: Tasks that found everything in place.
        changed: Tasks that changed something (in check mode: would change).
        skipped: Tasks that did not apply.
        failed: Tasks that failed.
        seconds: Sum of the seconds that the host's tasks took.
    """

    ok: int = 0
    changed: int = 0
    skipped: int = 0
    failed: int = 0
    seconds: float = 0.0


class HostResult(_Frozen):
    """What the run did on one host, stage by stage, and what its instances answered.

    Attributes:
        stages: What each stage did. Tasks that handle secrets do not tell whether they changed
            something; they count as ok here.
        changed: Number of changes over all stages, as Ansible counts them, secrets included.
        answers: What the host's instances answered.
        differences: What was not as its plan and its receipt say when the run began, each with
            kind, subject, expected and found.
    """

    stages: dict[str, StageResult] = Field(default_factory=dict)
    changed: int = 0
    answers: list[Answer] = Field(default_factory=list)
    differences: list[dict[str, Any]] = Field(default_factory=list)


class Failure(_Frozen):
    """One task that failed on one host.

    Attributes:
        host: Inventory name of the host.
        stage: Play in which it happened.
        task: Name of the task.
        message: What the task said.
        unreachable: Whether the host could not be reached at all.
    """

    host: str
    stage: str
    task: str
    message: str
    unreachable: bool = False


class ProvisionResult(_Frozen):
    """A run that ended well.

    Attributes:
        hosts: Result by inventory name; the controller's own plays are under "localhost".
        stages: Wall-clock seconds of each stage, in order.
        seconds: Wall-clock seconds of the run.
        check: Whether it ran in check mode and changed nothing.
        notices: What the plan wanted people to know.
    """

    hosts: dict[str, HostResult] = Field(default_factory=dict)
    stages: dict[str, float] = Field(default_factory=dict)
    seconds: float = 0.0
    check: bool = False
    notices: list[str] = Field(default_factory=list)

    @property
    def changed(self) -> int:
        """Number of changes over all hosts."""
        return sum(host.changed for host in self.hosts.values())


class ProvisionError(Exception):
    """A run that failed.

    Attributes:
        host: First failing host, or None when Ansible itself could not start.
        stage: Stage of the first failure, or None.
        task: Task of the first failure, or None.
        message: What went wrong.
        failures: Every failure of the run, in order.
        result: What had been done before and beside the failures.
    """

    def __init__(self, message: str, failures: list[Failure], result: ProvisionResult) -> None:
        first = failures[0] if failures else None
        self.host = first.host if first else None
        self.stage = first.stage if first else None
        self.task = first.task if first else None
        self.message = message
        self.failures = failures
        self.result = result
        where = f"{first.host}: {first.stage}: {first.task}: " if first else ""
        super().__init__(f"{where}{message}")
