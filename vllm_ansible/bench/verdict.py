"""A figure that has a target, and the table of such figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, computed_field
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

Bound = Literal["≤", "≥", "="]


class Verdict(BaseModel):
    """One figure and its target.

    Attributes:
        name: What is measured.
        value: The figure.
        bound: Whether it has to be at most, at least or exactly the target.
        target: The target.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    value: float
    bound: Bound
    target: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def met(self) -> bool:
        """Whether the figure is within its target."""
        if self.bound == "=":
            return self.value == self.target
        return self.value <= self.target if self.bound == "≤" else self.value >= self.target


def verdict_table(verdicts: Iterable[Verdict]) -> Table:
    """The figures, their targets, and whether they are met."""
    table = Table("figure", "measured", "target", "", title="Targets", title_justify="left")
    for one in verdicts:
        met = "[green]met[/]" if one.met else "[red]missed[/]"
        table.add_row(one.name, f"{one.value:g}", f"{one.bound} {one.target:g}", met)
    return table
