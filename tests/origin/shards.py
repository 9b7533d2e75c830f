"""A model in two files of weights, as large models are laid out, with random weights.

No engine serves it: it is there to be fetched. The same byte for byte on every machine.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from tests.origin import lfs_repository
from tests.origin.smollm2 import _write_weights, to_bfloat16

GIT, LFS, PLAIN = "git/models/shards.git", "lfs/models/shards", "models/shards"
GIT_LACKING, LFS_LACKING = "git/models/lacking.git", "lfs/models/lacking"
_SHARDS, _LAYERS = 2, 16
# Of the layers: 34 MB in each file, and 33 kB.
_WIDTH, _WIDTH_LACKING = 1024, 32


def make(staging: Path) -> dict[str, Any]:
    """Writes the model as a repository with LFS and, with a manifest beside it, as plain files.

    Beside it a repository that lacks one of the files of which its index tells.

    Args:
        staging: the directory of all.

    Returns:
        The revision, and size and SHA-256 of each file; `lacking` is the other's revision.
    """
    files = staging / "files"
    where = _write(files, _WIDTH)
    described = lfs_repository.publish(files, staging / GIT, staging / LFS)
    _publish_plain(files, described, staging / LFS, staging / PLAIN)
    small = staging / "small"
    _write(small, _WIDTH_LACKING)
    (small / max(where.values())).unlink()
    lacking = lfs_repository.publish(small, staging / GIT_LACKING, staging / LFS_LACKING)
    return {**described, "lacking": lacking["revision"]}


def _write(files: Path, width: int) -> dict[str, str]:
    """Writes the files of a model with layers of this width; returns where each tensor is."""
    files.mkdir()
    where: dict[str, str] = {}
    for number in range(_SHARDS):
        name = f"model-{number + 1:05d}-of-{_SHARDS:05d}.safetensors"
        random = np.random.default_rng(number)
        weights = {
            f"model.layers.{layer}.weight": to_bfloat16(
                random.standard_normal((width, width), dtype=np.float32)
            )
            for layer in range(number * _LAYERS, (number + 1) * _LAYERS)
        }
        _write_weights(files / name, weights)
        where |= dict.fromkeys(weights, name)
    index = {"metadata": {"total_size": _SHARDS * _LAYERS * width**2 * 2}, "weight_map": where}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": width,
        "model_type": "llama",
    }
    for name, content in (("config.json", config), ("model.safetensors.index.json", index)):
        (files / name).write_text(json.dumps(content, indent=2) + "\n")
    return where


def _publish_plain(files: Path, described: dict[str, Any], store: Path, plain: Path) -> None:
    """Lays the files out as a site's mirror has them; large ones are the store's own."""
    folder = plain / described["revision"]
    folder.mkdir(parents=True)
    for name, words in described["files"].items():
        kept = store / words["sha256"]
        os.link(kept if kept.is_file() else files / name, folder / name)
    manifest = {"format": 1, "revision": described["revision"], "files": described["files"]}
    folder.with_name(f"{folder.name}.json").write_text(json.dumps(manifest) + "\n")
