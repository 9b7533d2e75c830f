"""What the checks share: a server's instances, as its operator and its users meet them."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.machines import Machines

PROJECT = Path(__file__).resolve().parents[3]
INVENTORY = Path(__file__).resolve().parents[1] / "inventory"
MACHINES = Machines(INVENTORY)
# Seconds within which an engine must be back on a machine that others use too.
BACK = 240
_FIGURES = pytest.StashKey[list[str]]()


def wait_for(what, seconds, *, pause=0.3):
    """Call until it returns something true, and return that with the seconds it took."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        found = what()
        if found:
            return found, time.monotonic() - began
        time.sleep(pause)
    raise AssertionError(f"not so within {seconds} s: {what.__doc__ or what}")


class Answer(threading.Thread):
    """A streamed answer of so many tokens, read in the background."""

    def __init__(self, instance, tokens):
        super().__init__(daemon=True)
        self.instance, self.tokens = instance, tokens
        self.pieces, self.finish, self.last, self.error = 0, None, "", None
        self.start()
        wait_for(lambda: self.pieces > 0 or self.error, 60, pause=0.05)

    def run(self):
        body = {
            "model": self.instance.model, "prompt": "Once upon a time", "stream": True,
            "max_tokens": self.tokens, "min_tokens": self.tokens, "ignore_eos": True,
        }  # fmt: skip
        try:
            with self.instance.client().stream("POST", "/v1/completions", json=body) as lines:
                for line in lines.iter_lines():
                    self.last = line or self.last
                    if line.startswith("data: {"):
                        self.pieces += 1
                        choices = json.loads(line[6:]).get("choices") or [{}]
                        self.finish = choices[0].get("finish_reason") or self.finish
        except httpx.HTTPError as error:
            self.error = f"{type(error).__name__}: {error}"

    @property
    def whole(self):
        """Whether its reader got all of it."""
        return (self.error, self.finish, self.last) == (None, "length", "data: [DONE]")


class Instance:
    """One instance of a server."""

    def __init__(self, machine, name, port, model):
        self.machine, self.name, self.model = machine, name, model
        self.host = MACHINES.host(machine)
        self.unit, self.socket = f"vllm@{name}.service", f"/run/vllm/{name}/api.sock"
        self.url = f"http://{MACHINES.address(machine)}:{port}"
        self._key = None

    def client(self):
        self._key = self._key or self.host.file("/etc/vllm/api_key").content_string.strip()
        headers = {"Authorization": f"Bearer {self._key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120)

    def shown(self, name):
        """One of the unit's properties."""
        return self.host.check_output(f"systemctl show --value --property={name} {self.unit}")

    def processes(self):
        """Its processes: what each is called, by pid and the time at which it began."""
        lines = self.host.check_output("ps -eo pid=,lstart=,unit:80=,args=").splitlines()
        found = {}
        for line in lines:
            pid, *began, unit, args = line.split(None, 7)
            if unit == self.unit:
                found[int(pid), " ".join(began)] = args
        return found

    def pid_of(self, part):
        """The one process of which this is a part of the name."""
        (pid,) = [pid for (pid, _), args in self.processes().items() if part in args]
        return pid

    def health(self):
        """What the door says of it, 0 for no answer."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code
        except httpx.HTTPError:
            return 0

    def ready(self, seconds=BACK):
        """Wait until it answers; return the seconds."""
        return wait_for(lambda: self.health() == httpx.codes.OK, seconds)[1]

    def ask(self):
        """Ask it for a few words or a vector; return the response."""
        if "bge" in self.model:
            return self.client().post(
                "/v1/embeddings", json={"model": self.model, "input": "The sky is blue."}
            )
        body = {"model": self.model, "prompt": "The capital of France is", "max_tokens": 4}
        return self.client().post("/v1/completions", json=body)

    def systemctl(self, verb):
        """Let systemd do something to it."""
        return self.host.run(f"systemctl {verb} {self.unit}")


def provision(*more):
    """Run the whole chain again, as an operator does."""
    done = subprocess.run(
        ["ansible-playbook", "site.yml", f"--inventory={INVENTORY}", *more],
        cwd=PROJECT,
        # Molecule's own configuration does not hold for a run of ours.
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def _environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return {**kept, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "PYTHONPATH": str(PROJECT)}


@pytest.fixture(scope="session")
def chat():
    return Instance("cpu1", "chat", 8000, "smollm2-135m-instruct")


@pytest.fixture(scope="session")
def vectors():
    return Instance("cpu1", "vectors", 8001, "tiny-bge")


@pytest.fixture
def figure(request):
    """A function that notes a figure, to be printed at the end."""

    def note(text):
        request.config.stash.setdefault(_FIGURES, []).append(text)

    return note


def pytest_terminal_summary(terminalreporter, config):
    for text in config.stash.get(_FIGURES, []):
        terminalreporter.write_line(f"FIGURE {text}")


@pytest.fixture
def quiet(chat, vectors):
    """Both answer, and no start is counted against them; the processes of the second."""
    for one in (chat, vectors):
        one.systemctl("reset-failed")
        one.ready()
    return vectors.processes()
