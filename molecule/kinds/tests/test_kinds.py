"""Each kind of model, asked from outside the machine as users ask it."""

import base64
import json
import math
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import openai
import pytest
import yaml
from conftest import MODELS, PORTS, url

PROJECT = Path(__file__).resolve().parents[3]
EXAMPLES = PROJECT / "scripts" / "examples"
QUESTION = "Name the capital of France."


def png(red, green, blue, side=56):
    """A square of one colour."""
    row = b"\0" + bytes([red, green, blue]) * side
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(row * side)),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def seen(*images):
    """A question about images."""
    urls = [f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in images]
    parts = [{"type": "image_url", "image_url": {"url": one}} for one in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}]


def see(client, messages):
    return client("eyes").chat.completions.create(
        model=MODELS["eyes"], messages=messages, max_tokens=16, temperature=0
    )


def cosine(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True)) / (
        math.hypot(*one) * math.hypot(*other)
    )


@pytest.mark.parametrize("name", PORTS)
def test_each_instance_lists_its_own_model(client, name):
    assert [model.id for model in client(name).models.list()] == [MODELS[name]]


def test_the_chat_model_knows_its_capitals(client):
    answer = client("chat").chat.completions.create(
        model=MODELS["chat"], messages=[{"role": "user", "content": QUESTION}], temperature=0
    )
    assert "Paris" in answer.choices[0].message.content


def test_an_image_is_read_and_more_images_are_more_tokens(client):
    # 56 pixels are 4 patches of 14, and 2 x 2 patches are one token.
    one, two = see(client, seen(png(255, 0, 0))), see(client, seen(png(255, 0, 0), png(0, 0, 255)))
    none = see(client, seen())
    assert one.choices[0].message.content.isalpha()
    tokens = [answer.usage.prompt_tokens for answer in (none, one, two)]
    # With the two marks around each image.
    assert [tokens[1] - tokens[0], tokens[2] - tokens[1]] == [6, 6]


def test_what_is_in_the_image_counts(client):
    answers = {
        see(client, seen(png(*colour))).choices[0].message.content
        for colour in [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    }
    assert len(answers) > 1


def test_the_engine_fetches_no_image_for_whoever_asks(client):
    content = [{"type": "image_url", "image_url": {"url": "http://10.97.74.2/tiny/x.png"}}]
    with pytest.raises(openai.BadRequestError, match=r"none\.invalid"):
        see(client, [{"role": "user", "content": content}])


def test_vectors_are_of_one_length_and_tell_texts_apart(client):
    texts = ["The sky is blue.", "It will rain in the afternoon.", "The sky is blue."]
    found = client("vectors").embeddings.create(model=MODELS["vectors"], input=texts)
    one, other, again = (item.embedding for item in found.data)
    assert len(one) == len(other) == len(again) == 128
    assert cosine(one, again) > 0.999
    assert cosine(one, other) < 0.99
    # The model says that its vectors are made one long.
    assert math.isclose(math.hypot(*one), 1, rel_tol=1e-2)


def test_a_text_that_is_too_long_is_refused_or_cut_off(client):
    asked = {"model": MODELS["vectors"], "input": "blue " * 300}
    with pytest.raises(openai.BadRequestError, match="256"):
        client("vectors").embeddings.create(**asked)
    cut = client("vectors").embeddings.create(**asked, extra_body={"truncate_prompt_tokens": -1})
    assert cut.usage.prompt_tokens == 256


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("chat", "embeddings"), ("eyes", "embeddings"), ("vectors", "chat/completions"),
        ("vectors", "completions"), ("vectors", "../pooling"),
    ],
)  # fmt: skip
def test_the_door_lets_each_kind_do_its_own_and_no_more(client, name, route):
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client(name).post(f"/{route}", body={}, cast_to=object)


def test_each_is_started_as_its_kind_wants(server):
    def config(name):
        return yaml.safe_load(server.file(f"/etc/vllm/{name}.yaml").content_string)

    assert config("vectors")["runner"] == "pooling"
    assert json.loads(config("eyes")["limit-mm-per-prompt"])["video"] == 0
    assert not {"runner", "limit-mm-per-prompt"} & set(config("chat"))


def example(name, *words, key):
    program = [sys.executable] if name.endswith(".py") else ["bash"]
    return subprocess.run(
        [*program, str(EXAMPLES / name), *words],
        env={**os.environ, "VLLM_API_KEY": key},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_examples_show_an_image(key, tmp_path):
    image = tmp_path / "image.png"
    image.write_bytes(png(0, 128, 255))
    done = example("openai_image.py", "--url", url("eyes"), str(image), "What is it?", key=key)
    assert (done.returncode, done.stdout.strip().isalpha()) == (0, True), done.stderr
    named = ["--url", url("eyes"), "--model", MODELS["eyes"]]
    done = example("curl.sh", *named, "image", str(image), "What is it?", key=key)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["choices"][0]["message"]["content"]


def test_the_examples_make_vectors(key):
    done = example("openai_embeddings.py", "--url", url("vectors"), "blue", "rain", key=key)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" 1.000  128 numbers  blue\n")
    named = ["--url", url("vectors"), "--model", MODELS["vectors"]]
    done = example("curl.sh", *named, "embed", "blue", key=key)
    assert len(json.loads(done.stdout)["data"][0]["embedding"]) == 128, done.stdout + done.stderr
