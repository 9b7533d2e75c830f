"""The one error that the project's modules raise and turn into a failed task."""

from __future__ import annotations

from typing import Any


class HostError(Exception):
    """A thing on the host is not as it must be.

    Args:
        message: names the thing, what was found, and the way out.
        details: structured facts for the task's result; never a secret.
    """

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
