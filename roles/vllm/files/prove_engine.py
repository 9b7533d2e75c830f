"""Prove that the engine's compiled kernels load, and print what they are for.

A wheel built for another glibc or processor imports with a mere warning and fails when it first
computes ("'_OpNamespace' '_C' object has no attribute ..."). So the kernels are asked.
"""

import importlib.metadata
import json

import torch
from vllm.platforms import current_platform

current_platform.import_kernels()
device = current_platform.device_type
if device == "cpu":
    torch.ops._C.init_cpu_memory_env  # noqa: B018  # the look-up itself fails where the kernels are missing
print(json.dumps({"vllm": importlib.metadata.version("vllm"), "device": device}))
