"""What was done to a lab, and how it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class MachineReport:
    """One machine.

    Attributes:
        address: Its address on the bridge.
        state: running, degraded, starting (runs, does not answer), broken or absent.
        failed_units: Units that failed in it.
        image: The image under its disk.
        seconds: Seconds from its start until it answered; None if it ran before.
    """

    name: str
    address: str
    state: str
    failed_units: tuple[str, ...] = ()
    image: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class LabReport:
    """A lab and what was done to it.

    Attributes:
        changes: What was made, repaired or removed, in words; empty when nothing was.
        notices: What a person should know.
        seconds: How long it took.
    """

    name: str
    machines: tuple[MachineReport, ...] = ()
    changes: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    seconds: float = 0.0
    network: dict[str, bool] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether anything was done."""
        return bool(self.changes)

    @property
    def is_up(self) -> bool:
        """Whether every machine runs and the network is whole."""
        states = {machine.state for machine in self.machines}
        return bool(states) and states <= {"running", "degraded"} and all(self.network.values())

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, for JSON and for Ansible."""
        return {**asdict(self), "changed": self.changed, "up": self.is_up}
