"""A plugin of vLLM, which keeps 16-bit weights as such where a processor computes with 32 bits.

Below AVX512 oneDNN has no products of 16-bit numbers. With `--dtype float32` vLLM's are fast, but
they read twice the bytes. FBGEMM, a part of torch, multiplies weights in float16 with what comes in
float32, and sums in float32: it needs AVX2, FMA and F16C.

A layer is multiplied so where that leaves its weights what they are in the model's files; of the
others vLLM's own kernel takes care. Where vLLM has no such place to put a kernel, nothing changes.
"""

import functools
import logging
import os
import warnings
from typing import Any

import torch

# vLLM warns of names of its own kind that it does not know.
_VARIABLE, _FORMAT = "LINEAR_WEIGHTS", "float16"
# Half of the distance between two of float16's subnormal numbers, into which a bfloat16 may fall.
_LOST = 2.0**-25
_MATRIX = 2
_ROWS = 4096  # are looked at in one go

_log = logging.getLogger("vllm.half_weights")
_warn_once = functools.cache(_log.warning)
_products: list[Any] = []
_staying: "dict[int, tuple[torch.Tensor, Linear]]" = {}  # by the weights' address


def register() -> None:
    """Called by vLLM in each of its processes, before a model is loaded."""
    if os.environ.get(_VARIABLE) != _FORMAT:
        return
    from vllm.model_executor.layers import utils

    dispatch = getattr(utils, "dispatch_cpu_unquantized_gemm", None)
    if dispatch is None or dispatch.__module__ == __name__:
        return

    def dispatch_cpu_unquantized_gemm(layer: torch.nn.Module, remove_weight: bool) -> None:
        try:
            product = _product_of(layer.weight, stays=not remove_weight)
        except (AttributeError, RuntimeError) as error:
            # Of a torch without FBGEMM or TorchScript: slower, and no reason not to serve.
            _warn_once("weights are not kept in float16: %s", str(error))
            product = None
        if product is None:
            dispatch(layer, remove_weight)
            return
        layer.cpu_linear = product
        if remove_weight:
            layer.weight = torch.nn.Parameter(torch.empty(0), requires_grad=False)

    utils.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm
    _log.info("weights of 16 bits are kept in float16")


def _product_of(weight: torch.Tensor, *, stays: bool) -> "Linear | None":
    """A layer's product; None where float16 does not have its weights.

    Two layers may have the very same weights, as embeddings and the last layer of many models do:
    these are packed once. Weights that do not stay are nobody else's, and their place is taken.
    """
    if not stays:
        return Linear(weight) if fits(weight) else None
    _, found = _staying.get(weight.data_ptr(), (weight, None))
    if found is None and fits(weight):
        found = Linear(weight)
        _staying[weight.data_ptr()] = (weight, found)
    return found


def fits(weight: torch.Tensor) -> bool:
    """Whether weights in float32 are 16-bit numbers that float16 has, too.

    Args:
        weight: A layer's, of any shape.
    """
    if weight.is_meta or weight.ndim != _MATRIX or weight.dtype != torch.float32:
        return False
    rows = weight.detach().split(_ROWS)
    return all(bool(((part.half().float() - part).abs() <= _LOST).all()) for part in rows)


class Linear:
    """A layer's product, as vLLM calls it.

    Args:
        weight: Outputs by inputs.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        self.outputs = weight.size(0)
        # A tensor is an input of what is compiled and kept; a number would be a part of it.
        self.which = torch.tensor(len(_products))
        _products.append(_product(torch.ops.quantized.linear_prepack_fp16(weight.detach(), None)))

    def __call__(
        self, x: torch.Tensor, _weight: torch.Tensor, bias: "torch.Tensor | None"
    ) -> torch.Tensor:
        """Multiply, with a layer's own weights, which were packed, and not with what is given."""
        product = torch.ops.half_weights.linear(x, self.which, self.outputs)
        return product if bias is None else product + bias


class _Product(torch.nn.Module):
    def __init__(self, packed: Any) -> None:
        super().__init__()
        self.packed = packed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)


def _product(packed: Any) -> Any:
    """A call of FBGEMM; from Python, with packed weights, each takes 50 us, from TorchScript 12."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It is on its way out of torch, not out of this one.
        return torch.jit.script(_Product(packed).eval()).forward


@functools.cache
def _count() -> None:
    """Called at each product: before the first one all layers have been loaded."""
    _log.info("weights of %d layers are kept in float16", len(_products))


def _linear(x: torch.Tensor, which: torch.Tensor, _outputs: int) -> torch.Tensor:
    _count()
    return _products[which.item()](x)


def _linear_of_shapes(x: torch.Tensor, _which: torch.Tensor, outputs: int) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], outputs))


# Packed weights are no tensors, which what is compiled could be given.
_library = torch.library.Library("half_weights", "DEF")
_library.define("linear(Tensor x, Tensor which, int outputs) -> Tensor")
_library.impl("linear", _linear, "CPU")
torch.library.register_fake("half_weights::linear", _linear_of_shapes)
