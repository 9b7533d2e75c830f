"""Stand-in for torch: it knows one operator, once the miniature's compiled module is loaded."""

import sys
from types import SimpleNamespace


class _Kernels:
    """The operators of a compiled module; looking one up fails where the module is not loaded."""

    def __getattr__(self, name):
        if name != "silu_and_mul" or "vllm._C" not in sys.modules:
            raise AttributeError(f"'_OpNamespace' '_C' object has no attribute '{name}'")
        return sys.modules["vllm._C"].add


ops = SimpleNamespace(_C=_Kernels())
