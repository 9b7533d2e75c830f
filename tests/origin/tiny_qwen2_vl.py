"""A Qwen2-VL with random weights: it takes text and images, and answers letters without sense."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import ascii_letters
from typing import Any

import numpy as np

from tests.origin.tiny_parts import HEADS, LAYERS, SPREAD, WIDTH, Weights, special, write

_SEED = 20_250_207
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(directory: Path) -> None:
    """Writes a Qwen2-VL of two layers in each of its two halves, with its processor."""
    vocabulary = [*_byte_tokens(), *SPECIAL]
    ids = {token: number for number, token in enumerate(vocabulary)}
    write(directory / "config.json", _config(ids))
    write(
        directory / "generation_config.json",
        {"eos_token_id": [ids["<|im_end|>"]], "pad_token_id": ids["<|endoftext|>"]},
    )
    write(directory / "preprocessor_config.json", _preprocessor())
    write(directory / "chat_template.json", {"chat_template": TEMPLATE})
    write(directory / "tokenizer.json", _byte_tokenizer(ids))
    write(
        directory / "tokenizer_config.json",
        {
            "added_tokens_decoder": {str(ids[t]): special(t) for t in SPECIAL},
            "chat_template": TEMPLATE,
            "eos_token": "<|im_end|>",
            "model_max_length": 4096,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "Qwen2Tokenizer",
        },
    )
    # Older readers of a tokenizer look for these two.
    write(directory / "vocab.json", {t: n for t, n in ids.items() if t not in SPECIAL})
    (directory / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    _weights(ids).save(directory / "model.safetensors")


def _config(ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "image_token_id": ids["<|image_pad|>"],
        "initializer_range": 0.02,
        "intermediate_size": 2 * WIDTH,
        "max_position_embeddings": 4096,
        "max_window_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS // 2,
        "rms_norm_eps": 1e-06,
        # Half of a head, for time, height and width.
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "video_token_id": ids["<|video_pad|>"],
        "vision_config": {
            "depth": LAYERS, "embed_dim": WIDTH, "hidden_size": WIDTH, "in_chans": 3,
            "in_channels": 3, "mlp_ratio": 2, "model_type": "qwen2_vl", "num_heads": HEADS,
            "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "vocab_size": len(ids),
    }  # fmt: skip


def _weights(ids: Mapping[str, int]) -> Weights:
    made = Weights(_SEED)
    made.linear("visual.patch_embed.proj", WIDTH, 3, 2, 14, 14, bias=False)
    for number in range(LAYERS):
        block = f"visual.blocks.{number}"
        made.norm(f"{block}.norm1")
        made.linear(f"{block}.attn.qkv", 3 * WIDTH, WIDTH)
        made.linear(f"{block}.attn.proj", WIDTH, WIDTH)
        made.norm(f"{block}.norm2")
        made.linear(f"{block}.mlp.fc1", 2 * WIDTH, WIDTH)
        made.linear(f"{block}.mlp.fc2", WIDTH, 2 * WIDTH)
    made.norm("visual.merger.ln_q")
    made.linear("visual.merger.mlp.0", 4 * WIDTH, 4 * WIDTH)
    made.linear("visual.merger.mlp.2", WIDTH, 4 * WIDTH)
    made.linear("model.embed_tokens", len(ids), WIDTH, bias=False, spread=SPREAD)
    for number in range(LAYERS):
        layer = f"model.layers.{number}"
        made.norm(f"{layer}.input_layernorm", bias=False)
        made.linear(f"{layer}.self_attn.q_proj", WIDTH, WIDTH)
        made.linear(f"{layer}.self_attn.k_proj", WIDTH // 2, WIDTH)
        made.linear(f"{layer}.self_attn.v_proj", WIDTH // 2, WIDTH)
        made.linear(f"{layer}.self_attn.o_proj", WIDTH, WIDTH, bias=False)
        made.norm(f"{layer}.post_attention_layernorm", bias=False)
        made.linear(f"{layer}.mlp.gate_proj", 2 * WIDTH, WIDTH, bias=False)
        made.linear(f"{layer}.mlp.up_proj", 2 * WIDTH, WIDTH, bias=False)
        made.linear(f"{layer}.mlp.down_proj", WIDTH, 2 * WIDTH, bias=False)
    made.norm("model.norm", bias=False)
    made.linear("lm_head", len(ids), WIDTH, bias=False, spread=SPREAD)
    # Letters alone are ever chosen: an answer is a text, and no end of it comes by chance.
    letters = [ids[letter] for letter in ascii_letters]
    mute = np.ones(len(ids), dtype=bool)
    mute[letters] = False
    made.tensors["lm_head.weight"][mute] = 0
    return made


def _preprocessor() -> dict[str, Any]:
    return {
        "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "max_pixels": 200704, "merge_size": 2, "min_pixels": 3136, "patch_size": 14,
        "processor_class": "Qwen2VLProcessor", "resample": 3, "rescale_factor": 1 / 255,
        "temporal_patch_size": 2,
    }  # fmt: skip


def _byte_tokens() -> list[str]:
    """The 256 bytes as GPT-2 writes them: what prints as itself, the others from U+0100 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(0x100 + hidden.index(byte)) for byte in range(256)]


def _byte_tokenizer(ids: Mapping[str, int]) -> dict[str, Any]:
    """Every byte is a token; nothing is merged."""
    options = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    plain = {token: number for token, number in ids.items() if token not in SPECIAL}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [{"id": ids[token], **special(token)} for token in SPECIAL],
        "pre_tokenizer": {"type": "ByteLevel", **options},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", **options},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "vocab": plain, "merges": [],
        },
    }  # fmt: skip
