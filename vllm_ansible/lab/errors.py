"""What can go wrong with a lab, in words that a person can act on."""

from __future__ import annotations

from collections.abc import Sequence


class LabError(Exception):
    """The lab cannot be made, kept or removed.

    Attributes:
        problems: Every problem found, each with what was found and the way out.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class LabWordsError(LabError):
    """The inventory says something about the lab that it may not."""


class PreflightError(LabError):
    """This computer cannot carry the lab as it is; nothing was made."""
