"""Prove that the engine's compiled kernels load, and print what they are for.

A wheel built for another glibc or processor imports with a mere warning and fails when it first
computes ("'_OpNamespace' '_C' object has no attribute ..."). So the kernels are asked.

An engine for GPUs may be installed where no GPU is at hand (ahead of its driver, or into an image):
its kernels then have nothing to load on, and that it can be imported is all that can be proved.
"""

import importlib
import importlib.metadata
import json
from pathlib import Path

import torch

# The driver makes it; without it there is no GPU for anyone.
CONTROL = Path("/dev/nvidiactl")

version = importlib.metadata.version("vllm")
device = "cpu" if "cpu" in version else "cuda"
importlib.import_module("vllm")
proved = "import"
if device == "cpu" or CONTROL.exists():
    try:
        importlib.import_module("vllm.platforms").current_platform.import_kernels()
    except (ImportError, AttributeError):  # versions below 0.19 have no such function
        importlib.import_module("vllm._C")
    # Every version's kernels have this one; the look-up itself fails where they are missing.
    torch.ops._C.silu_and_mul  # noqa: B018
    proved = "kernels"
print(json.dumps({"vllm": version, "device": device, "proved": proved}))
