"""The errors that a program in Python ended with, out of all that it said."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# What the journal, a process of vLLM's and its logger put before a line.
_BEFORE = r"(?:\S+ \S+ \S+\[\d+\]: )?(?:\(\S+ pid=\d+\) )?(?:ERROR \S+ \S+ \[\S+\] )?"
_RAISED = re.compile(_BEFORE + r"((?:\w+\.)*\w*(?:Error|Exception): .+)")
# vLLM's server ends with this one when its engine, another process, has ended with an error.
_ELSEWHERE = "See root cause"


def raised(lines: Iterable[str]) -> list[str]:
    """Return the last lines of the tracebacks in a log, each once, the latest at the end.

    A traceback of vLLM's server fills a page, and the engine's, which says why, is above it.

    Args:
        lines: The log, as the program wrote it or as the journal prints it.
    """
    found: dict[str, None] = {}
    for line in lines:
        match = _RAISED.match(line)
        if match and _ELSEWHERE not in match[1]:
            found.pop(match[1], None)
            found[match[1]] = None
    return list(found)
