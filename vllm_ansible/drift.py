"""What differs between plan, receipt and host: the result, and how people see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

# A start in progress is told, and is no drift.
PASSING = ("service starting",)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Difference(_Part):
    """One thing that is not as planned and recorded.

    Attributes:
        kind: What sort of thing, as docs/drift.md lists them.
        subject: Which one: a path, a unit, a user.
        expected: What it should be.
        found: What it is.
    """

    kind: str
    subject: str
    expected: Any = None
    found: Any = None

    @property
    def passing(self) -> bool:
        """Whether it goes by itself."""
        return self.kind in PASSING


class PartDrift(_Part):
    """One receipt of a host: its server, its web UI, or the mirror host's.

    Attributes:
        part: `server`, `webui` or `mirror`.
        differences: What differs.
        notice: What could not be compared, and why.
    """

    part: str
    differences: list[Difference] = Field(default_factory=list)
    notice: str = ""


class HostDrift(_Part):
    """What differs on one host; `error` says why nobody could look."""

    host: str
    error: str = ""
    parts: list[PartDrift] = Field(default_factory=list)

    @property
    def drifted(self) -> bool:
        """Whether something differs that does not go by itself."""
        return any(not one.passing for part in self.parts for one in part.differences)


class Drift(_Part):
    """What differs on all hosts of a run."""

    deep: bool = False
    hosts: list[HostDrift] = Field(default_factory=list)

    @property
    def drifted(self) -> list[str]:
        """The hosts on which something differs."""
        return [one.host for one in self.hosts if one.drifted]

    @property
    def unseen(self) -> list[str]:
        """The hosts at which nobody could look."""
        return [one.host for one in self.hosts if one.error]

    def verdict(self) -> str:
        """One sentence for the end."""
        words = ["1 host" if len(self.hosts) == 1 else f"{len(self.hosts)} hosts"]
        words += [f"drift on {', '.join(self.drifted)}"] if self.drifted else []
        words += [f"not looked at: {', '.join(self.unseen)}"] if self.unseen else []
        return "; ".join(words if len(words) > 1 else [*words, "no drift"])


def table(drift: Drift) -> Table:
    """The differences as a table; one row for a host without any."""
    shown = Table(title="Drift", title_justify="left")
    for column in ("host", "part", "what", "which", "expected", "found"):
        # Paths are for copying: a cut one is of no use.
        shown.add_column(column, overflow="fold")
    for host in drift.hosts:
        for row in _rows(host):
            shown.add_row(*map(escape, row))
    return shown


def _rows(host: HostDrift) -> Sequence[tuple[str, str, str, str, str, str]]:
    if host.error:
        return [(host.host, "", "not looked at", "", "", host.error)]
    rows = [
        (host.host, part.part, one.kind, one.subject, _short(one.expected), _short(one.found))
        for part in host.parts
        for one in part.differences
    ]
    rows += [(host.host, p.part, "notice", "", "", p.notice) for p in host.parts if p.notice]
    return rows or [(host.host, ", ".join(p.part for p in host.parts), "no drift", "", "", "")]


def _short(value: Any) -> str:
    """A value as a table has it: of a checksum, its beginning."""
    text = str(value)
    head, _, last = text.rpartition(" ")
    if len(last) >= 40 and all(letter in "0123456789abcdef" for letter in last):  # noqa: PLR2004
        text = f"{head} {last[:12]}".strip()
    return text
