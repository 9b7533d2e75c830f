"""What decisions read, and where they leave their reasons, notices and problems."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_ansible.plan.result import Reason

if TYPE_CHECKING:
    from vllm_ansible.data import Data, VllmVersion
    from vllm_ansible.plan.facts import HostFacts
    from vllm_ansible.schema import Words


@dataclass
class Context:
    """One call's inputs and its growing findings."""

    words: Words
    facts: HostFacts
    data: Data
    reasons: list[Reason] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def because(self, subject: str, value: object, why: str) -> None:
        """Notes a decision and its reason."""
        self.reasons.append(Reason(subject=subject, value=str(value), why=why))

    @property
    def version(self) -> str:
        """The version of vLLM that is asked for."""
        return self.words.engine.version or self.data.versions.default_vllm

    @property
    def known(self) -> VllmVersion:
        """What is known of that version."""
        return self.data.versions.vllm[self.version]

    @property
    def python(self) -> str:
        """The Python that is asked for."""
        return self.words.engine.python or self.data.versions.default_python
