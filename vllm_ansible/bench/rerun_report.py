"""The figures of a second run, on the fast path and without it, and whether they are in bounds."""

from __future__ import annotations

from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict, computed_field

# The fast path takes at most this share of the seconds, at the larger number of servers.
LEAST_FACTOR = 10.0


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rerun(_Frozen):
    """One run that had nothing to do.

    Attributes:
        seconds: What it took.
        tasks: Tasks that were run, summed over hosts.
        changed: Those of them that changed something.
        stages: Seconds of each stage.
    """

    seconds: float
    tasks: int
    changed: int
    stages: dict[str, float]


class Rounds(_Frozen):
    """Several runs of one number of servers.

    Attributes:
        servers: How many.
        first: Seconds of the run that made them.
        fast: Runs on the fast path.
        long: Runs without it.
    """

    servers: int
    first: float
    fast: list[Rerun]
    long: list[Rerun]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fast_seconds(self) -> float:
        """The median of the fast path."""
        return median(one.seconds for one in self.fast)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def long_seconds(self) -> float:
        """The median without it."""
        return median(one.seconds for one in self.long)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def factor(self) -> float:
        """How many times fewer seconds the fast path takes."""
        return round(self.long_seconds / self.fast_seconds, 1)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def quiet(self) -> bool:
        """Whether no run changed anything."""
        return not any(one.changed for one in [*self.fast, *self.long])


class Handled(_Frozen):
    """What a run made of a drift.

    Attributes:
        found: What differed from plan and receipt, each with kind and subject.
        changed: Tasks that changed something.
        left: What is not as it was before, by path.
    """

    found: list[dict[str, Any]]
    changed: int
    left: dict[str, Any]

    @property
    def repaired(self) -> bool:
        """Whether the server is as it was, by the work of tasks that say so."""
        return not self.left and self.changed > 0


class DriftVerdict(_Frozen):
    """One kind of drift, on the fast path and without it.

    Attributes:
        name: What was changed by hand.
        fast: What the fast path made of it.
        long: What the long way made of it.
    """

    name: str
    fast: Handled
    long: Handled

    @computed_field  # type: ignore[prop-decorator]
    @property
    def equal(self) -> bool:
        """Whether both found the same, and the server is as it was after both."""
        same = self.fast.found == self.long.found and self.fast.changed == self.long.changed
        return bool(self.fast.found) and same and self.fast.repaired and self.long.repaired


class RerunReport(_Frozen):
    """A second run of one server and of several, and each kind of drift.

    Attributes:
        rounds: By number of servers.
        drifts: The verdicts; empty where they were not asked for.
    """

    rounds: list[Rounds]
    drifts: list[DriftVerdict]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def met(self) -> bool:
        """Whether the fast path is fast enough, changes nothing, and misses nothing."""
        fast = self.rounds[-1].factor >= LEAST_FACTOR
        quiet = all(one.quiet for one in self.rounds)
        return fast and quiet and all(one.equal for one in self.drifts)
