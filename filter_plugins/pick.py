"""Filter that hands a role what it takes, and no more, of what the plan knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def pick(items: Iterable[Mapping[str, Any]], *names: str) -> list[dict[str, Any]]:
    """Keep some entries of each dictionary in a list.

    Args:
        items: The dictionaries.
        names: Keys to keep; each must be there.

    Returns:
        New dictionaries with those keys.

    Raises:
        KeyError: One of the keys is missing.
    """
    return [{name: item[name] for name in names} for item in items]


class FilterModule:
    """Filters of this project."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"pick": pick}
