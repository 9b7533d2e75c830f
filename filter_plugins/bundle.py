"""Filter that tells what a bundle for some plans carries."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vllm_ansible.bundle import BundleError, select


def bundle_selection(plans: list[dict[str, Any]]) -> dict[str, Any]:
    """What hosts with these plans fetch; see `vllm_ansible.bundle.select`.

    Raises:
        AnsibleFilterError: The plans cannot be carried in one bundle.
    """
    try:
        return select(plans)
    except BundleError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Filters of this project."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"bundle_selection": bundle_selection}
