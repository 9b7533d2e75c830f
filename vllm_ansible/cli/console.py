"""Consoles of rich, as the command lines use them."""

from __future__ import annotations

import sys

from rich.console import Console

# Columns where no terminal says how many it has: rich would take 80, and fold paths and reasons.
_COLUMNS = 140


def for_tables() -> Console:
    """Standard output for tables: as wide as the terminal, and wide in a file or a pipe.

    Numbers and names are not coloured by what they look like; a table says its own styles.
    """
    return Console(highlight=False, width=None if sys.stdout.isatty() else _COLUMNS)
