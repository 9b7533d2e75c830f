"""Runs of the whole chain on machines of a lab, to their end or cut off by SIGKILL."""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from vllm_ansible import lab
from vllm_ansible.bench.rerun import STANDIN, write_inventory
from vllm_ansible.bench.site import names
from vllm_ansible.bench.state import State, state_of, without
from vllm_ansible.lab import LabSpec
from vllm_ansible.lab.machine import Machine
from vllm_ansible.paths import PROJECT

SUBNET = IPv4Network("10.97.85.0/24")
# Made anew on each machine: keys, and what is sealed with one.
SECRETS = (
    *("/etc/vllm/api_key", "/etc/nginx/vllm/keys.map", "/etc/ssh/", "/var/lib/vllm/receipt.key"),
    *("/etc/hostname", "/etc/machine-id"),
)
_TASK = re.compile(r"TASK \[(.*)\] \*+")
_LIMIT = 540


@dataclass
class Run:
    """How a run went.

    Attributes:
        status: Its exit status; -9 where it was killed.
        tasks: The tasks that it began, in order.
        output: What it said.
    """

    status: int
    tasks: list[str] = field(default_factory=list)
    output: str = ""


class Site:
    """Machines of one lab, each a site of its own with one server.

    Args:
        folder: For the inventory.
        machines: How many there are.
    """

    def __init__(self, folder: Path, machines: int) -> None:
        self.inventory = write_inventory(folder, "interrupted", SUBNET, machines)
        self.spec = LabSpec.from_inventory(self.inventory)
        self.hosts = names(machines)

    def fresh(self, host: str) -> None:
        """Put a bare machine in the place of a server."""
        lab.down(self.spec, _say, [host])
        lab.up(self.spec, _say, [host, "origin"])

    def state(self, host: str) -> State:
        """Files, links, units and receipts of a server, without its secrets."""
        return without(state_of(Machine(self.spec, self.spec.machine(host))), SECRETS)

    def run(self, host: str, *, kill_after: int | None = None, delay: float = 0.0) -> Run:
        """Run the chain for one server.

        Args:
            host: The server.
            kill_after: Tasks after which the controller, with all that it started, is killed.
            delay: Seconds into the next task at which it is.
        """
        # A connection that outlives a killed run leads to a machine that is gone by then.
        sockets = tempfile.mkdtemp(prefix="vi-")
        argv = ["ansible-playbook", "site.yml", "-i", str(self.inventory), "--limit", host]
        argv += ["-e", f"ansible_control_path_dir={sockets}"]
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # Into a pipe Ansible writes in large pieces: each line is wanted when it is said.
        words = {"PATH": programs, "PYTHONUNBUFFERED": "1"}
        words["VLLM_ANSIBLE_LOCKS"] = str(STANDIN / "locks")
        process = subprocess.Popen(
            argv, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), **words},
            start_new_session=True,
        )  # fmt: skip
        try:
            return _follow(process, kill_after, delay)
        finally:
            shutil.rmtree(sockets, ignore_errors=True)


def _follow(process: subprocess.Popen[str], kill_after: int | None, delay: float) -> Run:
    """Read a run to its end, or to the task after which it is killed."""
    done, lines = Run(status=0), []
    deadline = time.monotonic() + _LIMIT
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if found := _TASK.match(line):
            done.tasks.append(found[1])
        if len(done.tasks) > (kill_after or sys.maxsize) or time.monotonic() > deadline:
            time.sleep(delay)
            os.killpg(process.pid, signal.SIGKILL)
            break
    # What still runs on the machine holds no pipe of ours; a killed worker's child might.
    process.stdout.close()
    done.status, done.output = process.wait(), "".join(lines)
    return done


def _say(text: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="session")
def step() -> int:
    """Every how many tasks a run is killed: VLLM_INTERRUPT_STEP."""
    return int(os.environ.get("VLLM_INTERRUPT_STEP", "10"))


@pytest.fixture(scope="session")
def first(step: int) -> int:
    """After which task a run is killed first: VLLM_INTERRUPT_FIRST."""
    return int(os.environ.get("VLLM_INTERRUPT_FIRST", step))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The lab; VLLM_INTERRUPT_MACHINES says how many servers are killed at a time."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    folder = tmp_path_factory.mktemp("interrupted")
    made = Site(folder, int(os.environ.get("VLLM_INTERRUPT_MACHINES", "3")))
    lab.down(made.spec, _say)
    lab.up(made.spec, _say)
    yield made
    lab.down(made.spec, _say)


@pytest.fixture(scope="session")
def free(site: Site) -> Any:
    """The servers that nobody uses at the moment."""
    waiting: queue.Queue[str] = queue.Queue()
    for host in site.hosts:
        waiting.put(host)
    return waiting
