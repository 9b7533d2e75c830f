"""The tiny models hang together; that the engine serves them is the scenario `kinds`'s to prove."""

from __future__ import annotations

import json
from string import ascii_letters

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.origin import tiny_models


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    www = tmp_path_factory.mktemp("www")
    return www / "tiny", tiny_models.make(www)


def read(path):
    return json.loads(path.read_text("utf-8"))


def test_they_are_the_same_each_time_and_small(made, tmp_path):
    assert tiny_models.make(tmp_path) == made[1]
    for described in made[1].values():
        assert sum(file["size"] for file in described["files"].values()) < 8e6
        assert len(described["revision"]) == 40


def test_a_server_of_plain_files_finds_each_manifest_beside_its_files(made):
    place, described = made
    for name, said in described.items():
        assert read(place / f"{name}.json") == said["files"]
        assert all((place / name / file).is_file() for file in said["files"])
    assert "1_Pooling/config.json" in described["tiny-bge"]["files"]


@pytest.mark.parametrize("name", tiny_models.MAKERS)
def test_every_token_has_its_row(made, name):
    place = made[0] / name
    config, tokenizer = read(place / "config.json"), read(place / "tokenizer.json")
    tensors = load_file(place / "model.safetensors")
    tokens = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    assert sorted({**tokenizer["model"]["vocab"], **tokens}.values()) == [
        *range(config["vocab_size"])
    ]
    tables = [t for key, t in tensors.items() if "embed_tokens" in key or "word_embed" in key]
    assert [len(table) for table in tables] == [config["vocab_size"]]


def test_the_one_that_sees_knows_its_image_token_and_says_letters(made):
    place = made[0] / "tiny-qwen2-vl"
    config, tokenizer = read(place / "config.json"), read(place / "tokenizer.json")
    tokens = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    assert config["image_token_id"] == tokens["<|image_pad|>"]
    assert config["eos_token_id"] == tokens["<|im_end|>"]
    head = load_file(place / "model.safetensors")["lm_head.weight"]
    vocabulary = tokenizer["model"]["vocab"]
    said = {token for token, row in vocabulary.items() if np.any(head[row])}
    assert said == set(ascii_letters)
