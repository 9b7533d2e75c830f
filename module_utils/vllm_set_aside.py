"""Keep what somebody has changed by hand, where nothing reads it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

ROOT = Path("/var/lib/vllm/set-aside")


def place_for(path: Path, root: Path = ROOT) -> Path:
    """Return where a file or directory is kept: the time and its old path are part of the name."""
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return root / moment / path.relative_to("/")


def prepared(path: Path, root: Path) -> Path:
    """Return where something is kept, with its directory made; root alone may look."""
    place = place_for(path, root)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place


def set_aside(path: Path, root: Path = ROOT) -> Path:
    """Move a file, link or directory away and return where it is now.

    Raises:
        OSError: it cannot be moved.
    """
    place = prepared(path, root)
    shutil.move(str(path), str(place))
    return place


def copy_aside(path: Path, root: Path = ROOT) -> Path:
    """Copy a file that is about to be replaced and return where its copy is.

    Raises:
        OSError: it cannot be copied.
    """
    place = prepared(path, root)
    shutil.copy2(path, place, follow_symlinks=False)
    return place
