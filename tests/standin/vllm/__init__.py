"""Stand-in for vLLM as a wheel of pure Python. See tests/standin/README.md."""

from importlib.metadata import version

from vllm.fault import FAULT

if FAULT == "import":
    raise ImportError("this release is broken on purpose: it cannot be imported")

__version__ = version("vllm")
