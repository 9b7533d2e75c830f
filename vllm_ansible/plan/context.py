"""What decisions read, and where they leave their reasons, notices and problems."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_ansible.plan.result import Reason
from vllm_ansible.plan.site import Site
from vllm_ansible.plan.sources import resolve, through_mirror

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_ansible.data import Data, Model, VllmVersion
    from vllm_ansible.plan.facts import HostFacts
    from vllm_ansible.plan.sources import Resolved
    from vllm_ansible.schema import Words

# The reason of what is no decision of the plan's.
SAID = "the inventory says so"


@dataclass
class Context:
    """One call's inputs and its growing findings."""

    words: Words
    facts: HostFacts
    data: Data
    site: Site = field(default_factory=Site)
    reasons: list[Reason] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    # Fingerprints of secret values, by path.
    secrets: Mapping[str, str] = field(default_factory=dict)
    # The version decided on where the words name none; the decision about the device makes it.
    chosen: str | None = None

    def because(self, subject: str, value: object, why: str) -> None:
        """Notes a decision and its reason."""
        self.reasons.append(Reason(subject=subject, value=str(value), why=why))

    @property
    def version(self) -> str:
        """The version of vLLM that is asked for, else decided on, else the default."""
        return self.chosen or self.words.engine.version or self.data.versions.default_vllm

    @property
    def known(self) -> VllmVersion:
        """What is known of that version."""
        return self.data.versions.vllm[self.version]

    @property
    def models(self) -> dict[str, Model]:
        """All models that instances may name: the project's and the inventory's."""
        return {**self.data.models, **self.words.models}

    @property
    def python(self) -> str:
        """The Python that is asked for."""
        return self.words.engine.python or self.data.versions.default_python

    @property
    def upstream(self) -> Resolved:
        """Where the site's bits come from, as the inventory says."""
        return resolve(self.words.sources, self.data, self.version)

    @property
    def sources(self) -> Resolved:
        """Where this host's bits come from: the site's mirror host, if there is one."""
        if self.site.mirror is None:
            return self.upstream
        return through_mirror(self.upstream, self.site.mirror, self.data, self.words.sources)
