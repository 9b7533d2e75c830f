"""What the tiny models are made of: shapes, random weights, and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

WIDTH = 128
HEADS = 4  # of 32 numbers each: the smallest that the engine's attention on the CPU knows
LAYERS = 2
# Of the weights that tell tokens apart: wide enough that they are told apart.
SPREAD = 0.5


class Weights:
    """Weights out of one seed, in the order in which they are asked for."""

    def __init__(self, seed: int) -> None:
        self._numbers = np.random.default_rng(seed)
        self.tensors: dict[str, npt.NDArray[np.float32]] = {}

    def linear(self, name: str, *shape: int, bias: bool = True, spread: float = 0.05) -> None:
        """A weight around zero and, unless told otherwise, a bias beside it."""
        wide = self._numbers.standard_normal(shape, dtype=np.float32) * np.float32(spread)
        self.tensors[f"{name}.weight"] = wide
        if bias:
            self.tensors[f"{name}.bias"] = np.zeros(shape[0], dtype=np.float32)

    def norm(self, name: str, size: int = WIDTH, *, bias: bool = True) -> None:
        """The scale of a normalisation, which is one, and its shift, which is nought."""
        self.tensors[f"{name}.weight"] = np.ones(size, dtype=np.float32)
        if bias:
            self.tensors[f"{name}.bias"] = np.zeros(size, dtype=np.float32)

    def save(self, path: Path) -> None:
        """Writes them as a hub's file of weights."""
        save_file(self.tensors, path, {"format": "pt"})


def special(token: str) -> dict[str, Any]:
    """A token that is no text, as tokenizers describe it."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": token, **flags, "special": True}


def write(path: Path, content: object) -> None:
    """Writes JSON for people and programs."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
