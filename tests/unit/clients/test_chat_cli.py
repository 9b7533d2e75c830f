"""The program `scripts/chat`: in a pipe, on a terminal, and with an inventory."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from tests.standins.engine import ANSWER
from vllm_ansible.chat import door
from vllm_ansible.chat.errors import ChatError
from vllm_ansible.cli.chat import app
from vllm_ansible.lab import spec as lab_spec
from vllm_ansible.lab import ssh
from vllm_ansible.paths import PROJECT

INVENTORY = """
vllm:
  hosts: {{one: {{ansible_host: 192.0.2.7}}{others}}}
  vars:
    vllm_gateway: {{listen: [127.0.0.1{listen}]{key}}}
    vllm_instances:
      - {{name: a, model: qwen2.5-0.5b-instruct, port: 8001}}
      - {{name: b, model: qwen2.5-0.5b-instruct, port: 8002, served_names: [wen]}}
"""


def run(*arguments, asked="Capital of France?"):
    return CliRunner().invoke(app, list(arguments), input=asked)


@pytest.fixture
def inventory(tmp_path):
    def write(listen="", key="", others=""):
        file = tmp_path / "hosts.yml"
        file.write_text(INVENTORY.format(listen=listen, key=key, others=others), "utf-8")
        return file

    return write


def test_in_a_pipe_the_answer_alone_goes_to_standard_output(serve, monkeypatch):
    served = serve("--api-key=good-key-good-key", "--model=tiny")
    monkeypatch.setenv("VLLM_API_KEY", "good-key-good-key")
    result = run("--url", served.url, "--system", "Be brief.", "--top-k", "5")
    assert (result.exit_code, result.stdout) == (0, f"{ANSWER}\n")
    body = served.engine.bodies[-1]
    assert [one["content"] for one in body["messages"]] == ["Be brief.", "Capital of France?"]
    assert (body["model"], body["top_k"]) == ("tiny", 5)


def test_json_has_the_answer_and_its_figures(serve):
    result = run("--url", serve("--answer=天空 是 蓝色的").url, "--json", asked="为什么")
    content = json.loads(result.stdout)
    assert content["answer"] == "天空 是 蓝色的"
    assert content["question"] == "为什么"
    assert (content["tokens"], content["finish_reason"]) == (3, "stop")
    assert content["tokens_per_second"] > 0


def test_no_answer_ends_with_1_and_the_reason_on_standard_error(serve, tmp_path):
    key = tmp_path / "key"
    key.write_text("bad-key-bad-key\n", "utf-8")
    served = serve("--api-key=good", "--model=tiny")
    result = run("--url", served.url, "--api-key-file", str(key))
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"refuses the key (from {key})" in result.stderr
    assert "bad-key-bad-key" not in result.output
    result = run("--url", serve("--model=tiny").url, "--model", "huge")
    assert "does not serve huge; it serves tiny" in result.stderr


def test_in_a_pipe_an_interrupt_ends_with_130_and_leaves_what_came(serve):
    url = serve("--token-delay=0.2", "--answer=" + "word " * 100).url
    command = [sys.executable, "-m", "vllm_ansible.cli.chat", "--url", url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=PROJECT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"one")
        process.stdin.close()
        assert process.stdout.read(4) == b"word"
        process.send_signal(signal.SIGINT)
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "asked", "text"),
    [
        ([], b"", "standard input is empty"),
        ([], "你好".encode("gb18030"), "is not UTF-8"),
        (["--url", "http://a", "-i", "b"], b"x", "either --url or -i"),
        (["--host", "a"], b"x", "go with -i"),
        (["--temperature", "3"], b"x", "temperature 3"),
    ],
)
def test_wrong_usage_ends_with_2(arguments, asked, text):
    result = run(*arguments, asked=asked)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())


def test_an_inventory_says_where_and_with_which_key(inventory, tmp_path):
    key = tmp_path / "key"
    key.write_text("k" * 20 + "\n", "utf-8")
    key.chmod(0o600)
    file = inventory(listen=", 192.0.2.7", key=f", api_key_file: {key}")
    found = door.from_inventory(file, None, "b")
    assert (found.url, found.model, found.key) == ("http://192.0.2.7:8002", "wen", "k" * 20)
    assert found.key_source == f"from {key}"
    assert door.from_inventory(file, "one", "a", ("other", "from a test")).key == "other"


def test_an_inventory_with_several_asks_which(inventory):
    file = inventory(listen=", 192.0.2.7", others=", two: {}")
    with pytest.raises(ChatError, match="Say which with --host: one, two"):
        door.from_inventory(file)
    with pytest.raises(ChatError, match="Say which with --instance: a, b"):
        door.from_inventory(file, "one")
    with pytest.raises(ChatError, match="--host three: the inventory has one, two"):
        door.from_inventory(file, "three")


def test_a_door_on_another_computers_loopback_wants_a_tunnel(inventory):
    # 127.0.0.1 is this computer here: a question, and the key, would go to a stranger.
    with pytest.raises(ChatError, match=r"ssh -N -L 8001:127.0.0.1:8001 192.0.2.7"):
        door.from_inventory(inventory(), "one", "a")


def test_the_key_made_on_a_machine_of_the_lab_is_read_there(monkeypatch, tmp_path):
    monkeypatch.setattr(lab_spec, "STATE_ROOT", tmp_path)
    monkeypatch.setattr(ssh, "command", lambda _: ["sh", "-c", "echo from-the-lab; : $0"])
    lab = PROJECT / "inventories" / "lab"
    spec = lab_spec.LabSpec.from_inventory(lab)
    assert door.from_inventory(lab).key is None
    spec.key.parent.mkdir(parents=True)
    spec.key.write_text("", "utf-8")
    found = door.from_inventory(lab)
    assert (found.key, found.key_source) == ("from-the-lab", "from cpu1:/etc/vllm/api_key")


class Person:
    """Somebody at a terminal."""

    def __init__(self, *arguments: str) -> None:
        self.here, there = pty.openpty()
        self.process = subprocess.Popen(
            # A session with this terminal as its own, so that Ctrl-C reaches the program.
            ["setsid", "--ctty", sys.executable, "-m", "vllm_ansible.cli.chat", *arguments],
            stdin=there, stdout=there, stderr=there, cwd=PROJECT,
            env=os.environ | {"TERM": "xterm", "PYTHONPATH": str(PROJECT), "COLUMNS": "200"},
        )  # fmt: skip
        os.close(there)
        self.seen = ""

    def sees(self, text: str, seconds: float = 30) -> None:
        """Wait until a text has come since the last one."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} in {self.seen!r}"
            if select.select([self.here], [], [], left)[0]:
                self.seen += os.read(self.here, 4096).decode("utf-8", "replace")
        self.seen = self.seen.split(text, 1)[1]

    def types(self, text: str) -> None:
        os.write(self.here, text.encode())

    def leaves(self) -> int:
        """Return how the program ended."""
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            os.close(self.here)


def test_on_a_terminal_ctrl_c_stops_the_answer_and_the_chat_goes_on(serve):
    words = " ".join(f"w{number}" for number in range(100))
    served = serve("--token-delay=0.1", f"--answer={words}")
    person = Person("--url", served.url)
    try:
        person.sees("/help lists the commands")
        person.sees("you> ")
        person.types("天空为什么是蓝色的\n")
        person.sees("w3")
        person.types("\x03")
        person.sees("stopped, ")
        person.sees("you> ")
        person.types("/stats\n")
        person.sees("1 turns")
        person.sees("you> ")
        person.types("and\\\nthen\n")
        person.sees("w2")
        person.types("\x03")
        person.sees("stopped, ")
        person.sees("you> ")
        person.types("/quit\n")
    finally:
        status = person.leaves()
    assert status == 0
    first, second = served.engine.bodies
    assert first["messages"] == [{"role": "user", "content": "天空为什么是蓝色的"}]
    assert second["messages"][1]["content"].startswith("w0 w1 w2 w3")
    assert second["messages"][2]["content"] == "and\nthen"
