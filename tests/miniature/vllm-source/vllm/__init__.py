"""Stand-in for vLLM: one compiled function."""

from importlib.metadata import version

from vllm import _C

__version__ = version("vllm")
add = _C.add
