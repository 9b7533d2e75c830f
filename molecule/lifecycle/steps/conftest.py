"""What the steps share: playbooks run as an operator runs them, the machine, and who asks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import figures, instances
from tests.instances import Asker
from tests.machines import Machines
from vllm_ansible.paths import PROJECT

SCENARIO = Path(__file__).resolve().parents[1]
INVENTORY = SCENARIO / "inventory"
PORTS = {"tiny": 8000, "other": 8001}
_MACHINES = Machines(INVENTORY)
figure, pytest_terminal_summary = figures.figure, figures.pytest_terminal_summary


def play(playbook: str, *words: str, fails: bool = False) -> str:
    """Run a playbook on the scenario's inventory; see `tests.instances.play`."""
    locks = str(PROJECT / "tests/standin/locks")
    return instances.play(playbook, INVENTORY, *words, fails=fails, VLLM_ANSIBLE_LOCKS=locks)


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
        return instances.running_release(self.host, f"vllm@{instance}")

    def client(self, instance: str) -> httpx.Client:
        """A client of an instance's door, with the key."""
        url = f"http://{self.address}:{PORTS[instance]}"
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=url, headers=headers, timeout=10)

    def asked(self, instance: str) -> Asker:
        """Somebody who asks an instance again and again."""
        return Asker(self.client(instance), instance)

    def ask(self, instance: str = "tiny") -> httpx.Response:
        """Ask a question at the door, as a user does."""
        body = {"model": instance, "messages": [{"role": "user", "content": "Hello"}]}
        with self.client(instance) as client:
            return client.post("/v1/chat/completions", json=body)

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


@pytest.fixture(scope="session")
def server() -> Server:
    return Server()
