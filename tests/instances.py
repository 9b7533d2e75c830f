"""A lab server's instances for Molecule's checks, as operator and users meet them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from tests.machines import Machines
from vllm_ansible.paths import PROJECT

T = TypeVar("T")
# Seconds within which an engine must be back on a machine that others use too.
BACK = 240


def wait_for(what: Callable[[], T], seconds: float, *, pause: float = 0.3) -> T:
    """Call until it returns something true, and return that.

    Raises:
        AssertionError: It was not so within that many seconds.
    """
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, f"not so within {seconds} s"
        time.sleep(pause)
    return found


# The most that systemd-analyze may say of an instance on a CPU, of 10.
MOST_EXPOSED = 0.6


def exposure(host: Any, unit: str) -> tuple[float, str]:
    """How exposed systemd-analyze says that a unit is, and its lines about what is open.

    Args:
        host: The machine, as testinfra's host.
        unit: The unit.
    """
    # A locale with marks, by which these lines are known.
    command = f"LC_ALL=C.UTF-8 systemd-analyze security --no-pager {unit}"
    *table, overall = host.check_output(command).splitlines()
    figure = next(word for word in overall.split() if word.replace(".", "").isdigit())
    return float(figure), "\n".join(line.strip() for line in table if "✗" in line)


def running_release(host: Any, unit: str) -> str:
    """The version of vLLM that a unit's process runs.

    Args:
        host: The machine, as testinfra's host.
        unit: The unit.
    """
    pid = host.check_output(f"systemctl show --value --property=MainPID {unit}")
    path = host.check_output(f"tr '\\0' ' ' < /proc/{pid}/cmdline")
    found = re.search(r"/opt/vllm/releases/([^-/]+)-", path)
    assert found, path
    return found.group(1)


class Instance:
    """One instance of a server.

    Args:
        machines: The lab's machines.
        machine: The server's name.
        name: The instance's name.
        port: The port of its door.
        model: The name under which it is asked.
    """

    def __init__(self, machines: Machines, machine: str, name: str, port: int, model: str) -> None:
        self.name, self.model = name, model
        self.host = machines.host(machine)
        self.unit = f"vllm@{name}.service"
        self.url = f"http://{machines.address(machine)}:{port}"
        self._headers: dict[str, str] = {}

    @property
    def client(self) -> httpx.Client:
        """A client of its door, with the key."""
        if not self._headers:
            key = self.host.file("/etc/vllm/api_key").content_string.strip()
            self._headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=self._headers, timeout=120)

    def shown(self, name: str) -> str:
        """One of its unit's properties."""
        command = f"systemctl show --value --property={name} {self.unit}"
        return str(self.host.check_output(command))

    def systemctl(self, words: str) -> str:
        """Let systemd do something to it; return what that printed."""
        return str(self.host.run(f"systemctl {words} {self.unit}").stdout)

    def processes(self) -> dict[tuple[int, str], str]:
        """Its processes: their arguments, by pid and the time at which each began."""
        found = {}
        for line in self.host.check_output("ps -eo pid=,lstart=,unit:80=,args=").splitlines():
            pid, *began, unit, args = line.split(None, 7)
            if unit == self.unit:
                found[int(pid), " ".join(began)] = args
        return found

    def pid_of(self, part: str) -> int:
        """The one process of whose arguments this is a part."""
        (pid,) = [pid for (pid, _), args in self.processes().items() if part in args]
        return pid

    def release(self) -> str:
        """The version of vLLM that its process runs."""
        return running_release(self.host, self.unit)

    def health(self) -> int:
        """The status that the door says of it; 0 for no answer."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code
        except httpx.HTTPError:
            return 0

    def ready(self, seconds: float = BACK) -> None:
        """Wait until it answers."""
        wait_for(lambda: self.health() == httpx.codes.OK, seconds)

    def asked(self) -> Asker:
        """Somebody who asks it again and again."""
        return Asker(self.client, self.model)

    def ask(self) -> httpx.Response:
        """Ask it for a few words."""
        body = {"model": self.model, "prompt": "The capital of France is", "max_tokens": 4}
        return self.client.post("/v1/completions", json=body)


class Answer(threading.Thread):
    """A streamed answer of so many tokens, read in the background; made when it has begun."""

    def __init__(self, instance: Instance, tokens: int) -> None:
        super().__init__(daemon=True)
        self.instance, self.tokens = instance, tokens
        self.pieces, self.last, self.error = 0, "", ""
        self.finish: str | None = None
        self.start()
        wait_for(lambda: self.pieces or self.error, 60, pause=0.05)

    def run(self) -> None:
        """Read it."""
        body = {
            "model": self.instance.model, "prompt": "Once upon a time", "stream": True,
            "max_tokens": self.tokens, "min_tokens": self.tokens, "ignore_eos": True,
        }  # fmt: skip
        try:
            with self.instance.client.stream("POST", "/v1/completions", json=body) as answer:
                for line in answer.iter_lines():
                    self.last = line or self.last
                    if line.startswith("data: {"):
                        self.pieces += 1
                        choice = (json.loads(line[6:]).get("choices") or [{}])[0]
                        self.finish = choice.get("finish_reason") or self.finish
        except httpx.HTTPError as error:
            self.error = f"{type(error).__name__}: {error}"

    @property
    def whole(self) -> bool:
        """Whether its reader got all of it."""
        return not self.error and bool(self.finish) and self.last == "data: [DONE]"

    def __str__(self) -> str:
        return f"{self.pieces} pieces, finish {self.finish}, last {self.last!r}, {self.error}"


def tokens_within(instance: Instance, seconds: float) -> int:
    """How many tokens an instance says in some seconds, with what else the computer does now."""
    count = 50
    answer, began = Answer(instance, count), time.monotonic()
    answer.join()
    return int(count * seconds / (time.monotonic() - began))


class Asker:
    """Somebody who asks an instance again and again, and counts; while a `with` block runs.

    Attributes:
        good: How many answers came.
        bad: What came instead of one, each time.
        outages: Seconds of each series of those, from the first question that had no answer to
            the next that had one.
    """

    def __init__(self, client: httpx.Client, model: str) -> None:
        self.good, self.bad, self.outages = 0, list[str](), list[float]()
        self._client, self._model = client, model
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        body = {"model": self._model, "max_tokens": 2,
                "messages": [{"role": "user", "content": "Hello"}]}  # fmt: skip
        away: float | None = None
        with self._client as client:
            while not self._end.is_set():
                began = time.monotonic()
                try:
                    answer = client.post("/v1/chat/completions", json=body)
                    reason = "" if answer.status_code == httpx.codes.OK else str(answer.status_code)
                except httpx.HTTPError as error:
                    reason = type(error).__name__
                if reason:
                    self.bad.append(reason)
                    away = began if away is None else away
                else:
                    self.good += 1
                    if away is not None:
                        self.outages.append(time.monotonic() - away)
                        away = None
                time.sleep(0.05)
        if away is not None:
            self.outages.append(time.monotonic() - away)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def play(
    playbook: str,
    inventory: Path,
    *more: str,
    variables: Mapping[str, Any] | None = None,
    fails: bool = False,
    **environment: str,
) -> str:
    """Run a playbook as an operator does; return its output.

    Args:
        playbook: Its file, from the project's directory.
        inventory: The inventory.
        more: More arguments of `ansible-playbook`.
        variables: Variables that win over the inventory's.
        fails: Whether it must fail.
        environment: Variables of the environment besides.

    Raises:
        AssertionError: It did not end as it must.
    """
    # Molecule's own configuration does not hold for a run of ours.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "MOLECULE_"))}
    ours = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "PYTHONPATH": str(PROJECT)}
    extra = [f"--extra-vars={json.dumps(variables)}"] if variables else []
    done = subprocess.run(
        ["ansible-playbook", playbook, f"--inventory={inventory}", *extra, *more],
        cwd=PROJECT, env={**kept, **ours, **environment}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done.stdout[-6000:]
    return done.stdout
