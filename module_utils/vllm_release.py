"""What is written into a release's directory: how far it has been made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.vllm_files import as_json, read_json_object, write_atomic

MARKER = ".vllm-release.json"
# The stages in their order. "installing" is left only by an interrupted installation.
ENVIRONMENT, INSTALLING, COMPLETE = "environment", "installing", "complete"


def read_marker(prefix: Path) -> dict[str, Any] | None:
    """Return a release's marker; None when it is missing or damaged."""
    try:
        content: dict[str, Any] | None = read_json_object(prefix / MARKER)
    except (ValueError, OSError):
        return None
    if content is None or content.get("stage") not in (ENVIRONMENT, INSTALLING, COMPLETE):
        return None
    return content


def write_marker(prefix: Path, **content: Any) -> None:
    """Record how far a release has been made."""
    write_atomic(prefix / MARKER, as_json({"format": 1, **content}).encode(), 0o644)
