"""What the checks share: the machines, fetching on one of them, and counting what that costs."""

import json
import os
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import figures
from tests.machines import Machines
from vllm_ansible.bench.traffic import counting, since
from vllm_ansible.lab import LabSpec
from vllm_ansible.paths import PROJECT
from vllm_ansible.provisioning import ProvisionError, provision

HERE = Path(__file__).resolve().parents[1]
INVENTORY = HERE / "inventory"
MANIFEST = json.loads(Path("/var/cache/vllm-lab/origin/manifest.json").read_text())
MODEL, OTHER = MANIFEST["shards"], MANIFEST["model"]
REVISION = MODEL["revision"]
SIZE = sum(words["size"] for words in MODEL["files"].values())
SERVERS = ["cpu1", "cpu2", "cpu3"]
# Where the checks fetch to, so that the site's own snapshots stay as they are.
TRIES = "/srv/tries"

# As an operator has it at a terminal: without Molecule's settings of Ansible, each line at once.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
    "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
    "PYTHONUNBUFFERED": "1",
}

LAB = LabSpec.from_inventory(INVENTORY)
_MACHINES = Machines(INVENTORY)
address, machine = _MACHINES.address, _MACHINES.host
figure, pytest_terminal_summary = figures.figure, figures.pytest_terminal_summary


def git(prefix="", repository="models/shards"):
    """The origin's repository, or a bad one."""
    return {"kind": "git-lfs", "url": f"http://{address('origin')}{prefix}/{repository}.git"}


def files(prefix=""):
    """The origin's plain files with their manifest, or bad ones."""
    return {"kind": "files", "url": f"http://{address('origin')}{prefix}/models/shards/{REVISION}/"}


@dataclass
class Tried:
    """How a run ended: what it said when it failed, and what it said of its progress."""

    failed: str = ""
    progress: list[str] = field(default_factory=list)


def snapshot(name, *sources, root=TRIES, **words):
    """Variables of fetch.yml for one model on the first server."""
    said = {"name": name, "revision": REVISION, "path": f"{root}/{name}/{REVISION}"}
    item = {**said, "sources": list(sources), "files": MODEL["files"], **words}
    return {"fetch_root": root, "fetch_snapshot": item}


def fetch(name, *sources, on_progress=None, variables=None, **words):
    """Fetch a model on the first server, through the interface that `scripts/provision` uses."""
    tried = Tried()

    def hear(event):
        if event.kind == "progress":
            tried.progress.append(event.message)
            if on_progress is not None:
                on_progress(event.message)

    words = {**snapshot(name, *sources, **words), **(variables or {})}
    try:
        provision(
            INVENTORY, playbook=HERE / "fetch.yml", limit="cpu1", extra_vars=words, on_event=hear
        )
    except ProvisionError as error:
        tried.failed = error.message
    return tried


@contextmanager
def fetching(folder, variables, *options):
    """An `ansible-playbook` that fetches, and its output line by line."""
    said = folder / "variables.json"
    said.write_text(json.dumps(variables))
    argv = ["ansible-playbook", str(HERE / "fetch.yml"), "-i", str(INVENTORY), "--limit=cpu1"]
    argv += ["-e", f"@{said}"]
    with subprocess.Popen(
        [*argv, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    ) as run:
        yield run
        run.kill()


def outside(*names):
    """Bytes that the origin has sent to machines in the block; a function to ask for the sum."""

    @contextmanager
    def block():
        with counting(LAB, "origin") as counter:
            before = counter.read()
            yield lambda: sum(
                count.origin
                for name, count in since(before, counter.read()).items()
                if name in (names or _MACHINES.names)
            )

    return block()


@pytest.fixture(scope="session")
def cpu1():
    return machine("cpu1")


@pytest.fixture(scope="session")
def store():
    return machine("store")


def state(host, path):
    """What a directory holds: names, sizes, inodes, times, owners, modes, and every byte."""
    listing = host.check_output(f"find {path} -printf '%P %s %i %T@ %U %m\\n' | sort")
    return listing, host.check_output(f"find {path} -type f -exec sha256sum {{}} + | sort")


@pytest.fixture(scope="session")
def in_use():
    """A good snapshot beside all tries."""
    assert not fetch("in-use", files()).failed
    return f"{TRIES}/in-use"


@pytest.fixture
def untouched(cpu1, in_use):
    """What is in use stays as it was, whatever the check does."""
    before = state(cpu1, in_use)
    yield
    assert state(cpu1, in_use) == before


def wait_until(holds, seconds=20):
    """Wait until something holds; fail when it does not in time."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.2)
