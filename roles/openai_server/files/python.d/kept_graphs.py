"""A plugin of vLLM, which has it load what it has kept of a compiled model on a CPU too.

vLLM keeps a model that it has traced and compiled, to load it at the next start. On a CPU it calls
a method of what it has loaded that only its own wrapper for GPUs has, takes the AttributeError for
a broken cache, and traces the model anew at each start (read in `_try_load_aot_compiled_fn` of
vllm/compilation/decorators.py, 0.26.0 to 0.32.0). The method loads kernels in advance; without, the
first call does.

Where vLLM finds its method, nothing changes.
"""

from typing import Any

import torch


def register() -> None:
    """Called by vLLM in each of its processes, before a model is loaded."""
    load = torch.compiler.load_compiled_function
    if getattr(load, "__module__", "") == __name__:
        return

    def load_compiled_function(*args: Any, **kwargs: Any) -> Any:
        loaded = load(*args, **kwargs)
        function = getattr(getattr(loaded, "_artifacts", None), "compiled_fn", None)
        if function is not None and not hasattr(function, "finalize_loading"):
            function.finalize_loading = lambda _config: None
        return loaded

    torch.compiler.load_compiled_function = load_compiled_function
