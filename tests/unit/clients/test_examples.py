"""The examples are run as users run them: programs, with the key in the environment or a file."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys

import pytest

from tests.standins.engine import ANSWER
from vllm_ansible.paths import PROJECT

EXAMPLES = PROJECT / "scripts" / "examples"
ASKED = '天空为什么是"蓝色的"\\\n\t?'
CLIENTS = {
    "curl.sh": ["--model", "tiny", "chat", ASKED],
    "requests_chat.py": [ASKED],
    "openai_chat.py": [ASKED],
    "openai_chat.py --stream": ["--stream", ASKED],
}


def run(name, *arguments, key=None, asked=None, **environment):
    file = EXAMPLES / name.split()[0]
    program = [sys.executable, str(file)] if file.suffix == ".py" else [str(file)]
    given = {**os.environ, **environment} | ({"VLLM_API_KEY": key} if key else {})
    return subprocess.run(
        [*program, *arguments],
        capture_output=True,
        input=asked,
        env=given,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("name", CLIENTS)
def test_each_client_gets_the_answer_with_the_key(serve, name):
    served = serve("--api-key=good-key", "--model=tiny", "--token-delay=0")
    done = run(name, "--url", served.url, *CLIENTS[name], key="good-key")
    assert done.returncode == 0, done.stderr
    assert ANSWER in done.stdout.decode()
    body = served.engine.bodies[-1]
    assert body["messages"][-1] == {"role": "user", "content": ASKED}
    assert (body["model"], body["repetition_penalty"], body["max_tokens"]) == ("tiny", 1.05, 512)


@pytest.mark.parametrize("name", CLIENTS)
def test_each_client_says_when_it_is_refused(serve, name, tmp_path):
    key = tmp_path / "key"
    key.write_text("wrong-key\n", "utf-8")
    served = serve("--api-key=good-key", "--model=tiny")
    arguments = ["--url", served.url, "--api-key-file", str(key), *CLIENTS[name]]
    done = run(name, *arguments)
    assert done.returncode == 1
    assert b"Unauthorized" in done.stdout + done.stderr
    assert b"refuse" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"wrong-key" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", CLIENTS)
def test_each_client_says_when_nobody_is_there(name):
    done = run(name, "--url", "http://127.0.0.1:9/v1", *CLIENTS[name])
    assert done.returncode == 1
    assert b"http://127.0.0.1:9/v1" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("word", ["--cut-after=2", "--error-after=2"])
@pytest.mark.parametrize("name", ["requests_chat.py", "openai_chat.py --stream"])
def test_a_stream_that_breaks_off_is_no_answer(serve, name, word):
    done = run(name, "--url", serve(word).url, *CLIENTS[name])
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("name", [*CLIENTS, "offline_batch.py"])
def test_each_has_help_and_ends_with_2_on_wrong_usage(name):
    assert b"Exit status: 0 answered" in run(name, "--help").stdout
    assert run(name, "--nonsense").returncode == 2


def test_curl_lists_models_streams_and_completes(serve):
    served = serve("--model=tiny", "--token-delay=0")
    base = ["--url", served.url, "--model", "tiny"]
    assert b'"id": "tiny"' in run("curl.sh", "--url", served.url, "models").stdout
    assert b"data: [DONE]" in run("curl.sh", *base, "stream", "hi").stdout
    assert ANSWER.encode() in run("curl.sh", *base, "complete", "hi").stdout
    assert served.engine.bodies[-1]["prompt"] == "hi"
    assert run("curl.sh", "--url", served.url, "chat", "hi").returncode == 2


IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 800


@pytest.mark.parametrize("name", ["openai_image.py", "curl.sh"])
def test_an_image_travels_inside_the_request(serve, name, tmp_path):
    served = serve("--api-key=good-key", "--model=tiny", "--token-delay=0")
    image = tmp_path / "image.png"
    image.write_bytes(IMAGE)
    words = ["image"] if name == "curl.sh" else []
    asked = ["--url", served.url, "--model", "tiny", *words, str(image), ASKED]
    done = run(name, *asked, key="good-key")
    assert done.returncode == 0, done.stderr
    assert ANSWER in done.stdout.decode()
    image_part, text_part = served.engine.bodies[-1]["messages"][0]["content"]
    head, _, data = image_part["image_url"]["url"].partition(",")
    assert (head, base64.b64decode(data)) == ("data:image/png;base64", IMAGE)
    assert text_part["text"] == ASKED


def test_texts_become_vectors(serve):
    served = serve("--api-key=good-key", "--model=tiny")
    asked = ["--url", served.url, "天空", "雨"]
    done = run("openai_embeddings.py", *asked, key="good-key")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[0] == " 1.000  64 numbers  天空"
    assert served.engine.bodies[-1]["input"] == ["天空", "雨"]
    shown = run("openai_embeddings.py", "--json", *asked, key="good-key").stdout.decode()
    assert [json.loads(line)["text"] for line in shown.splitlines()] == ["天空", "雨"]
    done = run("curl.sh", "--url", served.url, "--model", "tiny", "embed", "雨", key="good-key")
    assert json.loads(done.stdout)["data"][0]["embedding"]


@pytest.mark.parametrize("name", ["openai_image.py", "openai_embeddings.py"])
def test_the_other_kinds_programs_say_what_is_wrong(serve, name, tmp_path):
    image = tmp_path / "image.png"
    words = [str(image), "?"] if name == "openai_image.py" else ["?"]
    image.write_bytes(IMAGE)
    done = run(name, "--url", "http://127.0.0.1:9/v1", *words)
    assert (done.returncode, b"cannot be reached" in done.stderr) == (1, True)
    done = run(name, "--url", serve("--api-key=good-key").url, *words, key="wrong-key")
    assert (done.returncode, b"the server refuses" in done.stderr) == (1, True)
    assert b"wrong-key" not in done.stdout + done.stderr
    assert b"Exit status: 0 answered" in run(name, "--help").stdout
    assert run(name, "--nonsense").returncode == 2


def test_the_offline_program_asks_in_the_models_form_and_in_order(tmp_path):
    (tmp_path / "config.json").write_text("{}", "utf-8")
    standins = str(PROJECT / "tests" / "standins" / "offline")
    asked = "天空为什么是蓝色的\n\n你好\n".encode()
    done = run("offline_batch.py", "--model", str(tmp_path), asked=asked, PYTHONPATH=standins)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in done.stdout.decode().splitlines())
    assert (first["question"], second["question"]) == ("天空为什么是蓝色的", "你好")
    said = json.loads(second["answer"])
    assert said["prompt"] == "<system>You are a helpful assistant.<user>你好<assistant>"
    assert said["sampling"]["repetition_penalty"] == 1.05
    assert said["engine"]["enforce_eager"]
    assert said["engine"]["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert said["engine"]["TORCH_COMPILE_DISABLE"] == "1"


def test_the_offline_program_says_what_it_lacks(tmp_path):
    done = run("offline_batch.py", "--model", str(tmp_path), asked=b"x")
    assert (done.returncode, b"no config.json" in done.stderr) == (1, True)
    (tmp_path / "config.json").write_text("{}", "utf-8")
    done = run("offline_batch.py", "--model", str(tmp_path), "--plain", asked=b"x")
    assert (done.returncode, b"/opt/vllm/current/bin/python" in done.stderr) == (1, True)
