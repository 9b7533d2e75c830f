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

NAME = "shards"
_SHARDS, _LAYERS, _WIDTH = 2, 16, 1024
_CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": _WIDTH, "model_type": "llama"}


def make(staging: Path, git: str, lfs: str, plain: str) -> dict[str, Any]:
    """Writes the model as a repository with LFS and, with a manifest beside it, as plain files.

    Args:
        staging: the directory of all.
        git: the repository's path below it.
        lfs: the path of the repository's large files.
        plain: the path of the directory that has the plain files by revision.

    Returns:
        The revision, and size and SHA-256 of each file.
    """
    files = staging / "files"
    files.mkdir()
    where: dict[str, str] = {}
    for number in range(_SHARDS):
        name = f"model-{number + 1:05d}-of-{_SHARDS:05d}.safetensors"
        random = np.random.default_rng(number)
        weights = {
            f"model.layers.{layer}.weight": to_bfloat16(
                random.standard_normal((_WIDTH, _WIDTH), dtype=np.float32)
            )
            for layer in range(number * _LAYERS, (number + 1) * _LAYERS)
        }
        _write_weights(files / name, weights)
        where |= dict.fromkeys(weights, name)
    index = {"metadata": {"total_size": _SHARDS * _LAYERS * _WIDTH**2 * 2}, "weight_map": where}
    for name, content in (("config.json", _CONFIG), ("model.safetensors.index.json", index)):
        (files / name).write_text(json.dumps(content, indent=2) + "\n")
    described = lfs_repository.publish(files, staging / git, staging / lfs)
    _publish_plain(files, described, staging / lfs, staging / plain)
    return described


def _publish_plain(files: Path, described: dict[str, Any], store: Path, plain: Path) -> None:
    """Lays the files out as a site's mirror has them; large ones are the store's own."""
    folder = plain / described["revision"]
    folder.mkdir(parents=True)
    for name, words in described["files"].items():
        kept = store / words["sha256"]
        os.link(kept if kept.is_file() else files / name, folder / name)
    manifest = {"format": 1, "revision": described["revision"], "files": described["files"]}
    folder.with_name(f"{folder.name}.json").write_text(json.dumps(manifest) + "\n")
