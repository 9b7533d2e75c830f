"""Tiny models with random weights, one that sees and one that embeds, as hubs lay such models out.

The engine loads and serves them as it does the large ones of their shape (Qwen2-VL; BERT, as
bge-small is one), so what serves and asks them can be tested with no hub at hand.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.origin import tiny_bert, tiny_qwen2_vl
from tests.origin.workshop import sha256, write_json

MAKERS = {"tiny-bge": tiny_bert.make, "tiny-qwen2-vl": tiny_qwen2_vl.make}


def make(staging: Path) -> dict[str, Any]:
    """Writes both models and their manifests, as a server of plain files has them.

    Args:
        staging: laid out as the origin's ``www``; ``tiny`` is made in it.

    Returns:
        For each model a revision (a checksum of its files) and size and SHA-256 of each file.
    """
    described = {}
    for name, maker in MAKERS.items():
        directory = staging / "tiny" / name
        directory.mkdir(parents=True)
        maker(directory)
        files = {
            path.relative_to(directory).as_posix(): {
                "sha256": sha256(path),
                "size": path.stat().st_size,
            }
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        }
        write_json(directory.with_suffix(".json"), files)
        content = json.dumps(files, sort_keys=True).encode()
        # As long as a commit's name; nothing but the files decides it.
        described[name] = {"revision": hashlib.sha256(content).hexdigest()[:40], "files": files}
    return described
