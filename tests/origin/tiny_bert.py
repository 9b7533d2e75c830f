"""A BERT with random weights, laid out as bge is: its vectors have no meaning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import printable
from typing import Any

from tests.origin.tiny_parts import HEADS, LAYERS, SPREAD, WIDTH, Weights, special, write

_SEED = 20_250_208
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make(directory: Path) -> None:
    """Writes a BERT of two layers that says what sentence-transformers does with its output."""
    ends = [*printable.strip(), *(f"##{letter}" for letter in printable.strip())]
    vocabulary = [*SPECIAL, *ends]
    ids = {token: number for number, token in enumerate(vocabulary)}
    write(directory / "config.json", _config(len(vocabulary)))
    write(directory / "tokenizer.json", _word_tokenizer(ids))
    write(
        directory / "tokenizer_config.json",
        {
            "added_tokens_decoder": {str(ids[t]): special(t) for t in SPECIAL},
            "cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]",
            "sep_token": "[SEP]", "unk_token": "[UNK]", "do_lower_case": False,
            "model_max_length": 512, "tokenizer_class": "BertTokenizer",
        },
    )  # fmt: skip
    (directory / "vocab.txt").write_text("".join(f"{t}\n" for t in vocabulary), encoding="utf-8")
    write(directory / "modules.json", _modules())
    write(directory / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})
    write(
        directory / "1_Pooling" / "config.json",
        {"word_embedding_dimension": WIDTH, "pooling_mode_cls_token": True},
    )
    _weights(len(vocabulary)).save(directory / "model.safetensors")


def _config(size: int) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": 2 * WIDTH,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": size,
    }


def _weights(size: int) -> Weights:
    made = Weights(_SEED)
    for kind, length in (("word", size), ("position", 512), ("token_type", 2)):
        made.linear(f"embeddings.{kind}_embeddings", length, WIDTH, bias=False, spread=SPREAD)
    made.norm("embeddings.LayerNorm")
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            made.linear(f"{layer}.attention.self.{part}", WIDTH, WIDTH, spread=0.2)
        made.linear(f"{layer}.attention.output.dense", WIDTH, WIDTH, spread=0.2)
        made.norm(f"{layer}.attention.output.LayerNorm")
        made.linear(f"{layer}.intermediate.dense", 2 * WIDTH, WIDTH)
        made.linear(f"{layer}.output.dense", WIDTH, 2 * WIDTH)
        made.norm(f"{layer}.output.LayerNorm")
    made.linear("pooler.dense", WIDTH, WIDTH)
    return made


def _modules() -> list[dict[str, Any]]:
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    return [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds.items())
    ]


def _word_tokenizer(ids: Mapping[str, int]) -> dict[str, Any]:
    """BERT's: words in pieces, of which each letter is one, between [CLS] and [SEP]."""
    first, last = ({"SpecialToken": {"id": t, "type_id": 0}} for t in ("[CLS]", "[SEP]"))
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": ids[token], **special(token)} for token in SPECIAL],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
            "strip_accents": None, "lowercase": False,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, {"Sequence": {"id": "A", "type_id": 0}}, last],
            "pair": [
                first, {"Sequence": {"id": "A", "type_id": 0}}, last,
                {"Sequence": {"id": "B", "type_id": 1}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
            ],
            "special_tokens": {
                token: {"id": token, "ids": [ids[token]], "tokens": [token]}
                for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": dict(ids),
        },
    }  # fmt: skip
