"""What the steps share: playbooks run as an operator runs them, the machine, and who asks it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.machines import Machines

SCENARIO = Path(__file__).resolve().parents[1]
PROJECT = SCENARIO.parents[1]
INVENTORY = SCENARIO / "inventory"
PORTS = {"tiny": 8000, "other": 8001}
_MACHINES = Machines(INVENTORY)


def play(playbook: str, *words: str, fails: bool = False) -> str:
    """Run a playbook and return what it prints; the step fails unless it ends as it should.

    Args:
        playbook: its file, from the project's directory.
        words: more words of ansible-playbook.
        fails: whether it must fail.
    """
    argv = ["ansible-playbook", playbook, "-i", str(INVENTORY), *words]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "MOLECULE_"))}
    locks = str(PROJECT / "tests/standin/locks")
    env = {**kept, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "VLLM_ANSIBLE_LOCKS": locks}
    ended = subprocess.run(
        argv, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=500, check=False
    )
    text = ended.stdout + ended.stderr
    assert (ended.returncode != 0) == fails, text[-6000:]
    return text


def version(text: str) -> list[str]:
    """Return the words that ask for a version of the stand-in."""
    return ["-e", f"standin_version={text}"]


class Server:
    """The scenario's server, as an operator and as a user sees it."""

    def __init__(self) -> None:
        self.host = _MACHINES.host("cpu1")
        self.address = _MACHINES.address("cpu1")

    def out(self, command: str) -> str:
        return str(self.host.check_output(command)).strip()

    @property
    def key(self) -> str:
        return self.out("cat /etc/vllm/api_key")

    def release(self) -> str:
        """The version that the link points at."""
        return self.out("readlink /opt/vllm/current").rpartition("/")[2].partition("-")[0]

    def receipt(self) -> dict[str, Any]:
        return dict(json.loads(self.out("cat /var/lib/vllm/receipt.json")))

    def process(self, instance: str) -> str:
        """An instance's main process and when it began: another one after a restart."""
        shown = self.out(f"systemctl show -p MainPID,ExecMainStartTimestamp vllm@{instance}")
        return shown.replace("\n", " ")

    def running(self, instance: str) -> str:
        """The version that an instance's process runs."""
        pid = self.out(f"systemctl show -p MainPID --value vllm@{instance}")
        path = self.out(f"tr '\\0' ' ' < /proc/{pid}/cmdline")
        found = re.search(r"/opt/vllm/releases/([^-/]+)-", path)
        assert found, path
        return found.group(1)

    def ask(self, instance: str = "tiny") -> httpx.Response:
        """Ask a question at the door, as a user does."""
        name = "tiny" if instance == "tiny" else instance
        body = {"model": name, "messages": [{"role": "user", "content": "Hello"}]}
        return httpx.post(
            f"http://{self.address}:{PORTS[instance]}/v1/chat/completions",
            headers={"Authorization": f"Bearer {self.key}"}, json=body, timeout=10,
        )  # fmt: skip

    def answers(self, instance: str = "tiny") -> str:
        return str(self.ask(instance).json()["choices"][0]["message"]["content"])

    def litter(self) -> list[str]:
        """What a proof, a trial or a failure would have left."""
        failed = self.out("systemctl list-units --failed --plain --no-legend 'vllm@*'")
        loaded = self.out("systemctl list-units --all --plain --no-legend 'vllm@*.trial*'")
        files = self.out(
            "find /etc/vllm /run/systemd/system /var/cache/vllm /run/vllm /etc/systemd/system"
            " -name '*.trial*' -o -name '*.started-with.*' -o -name '.*.conf.*'"
        )
        return [text for text in (failed, loaded, files) if text]


class Asker:
    """Somebody who asks an instance again and again, and counts."""

    def __init__(self, server: Server, instance: str) -> None:
        self.server, self.instance, self.key = server, instance, server.key
        self.good, self.bad = 0, list[tuple[float, str]]()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        url = f"http://{self.server.address}:{PORTS[self.instance]}/v1/chat/completions"
        body = {"model": self.instance, "messages": [{"role": "user", "content": "Hello"}]}
        headers = {"Authorization": f"Bearer {self.key}"}
        with httpx.Client(headers=headers, timeout=10) as client:
            while not self._end.is_set():
                try:
                    answer = client.post(url, json=body)
                    reason = "" if answer.status_code == httpx.codes.OK else str(answer.status_code)
                except httpx.HTTPError as error:
                    reason = type(error).__name__
                if reason:
                    self.bad.append((time.monotonic(), reason))
                else:
                    self.good += 1
                time.sleep(0.05)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    @property
    def gap(self) -> float:
        """Seconds from the first to the last request that failed."""
        return self.bad[-1][0] - self.bad[0][0] if self.bad else 0.0


@pytest.fixture(scope="session")
def server() -> Server:
    return Server()
