"""The action that has a model fetched says how far it is, and ends what it began on the host."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_origin_artefacts import FAULTS
from vllm_ansible.paths import PROJECT
from vllm_ansible.progress import heard
from vllm_ansible.provisioning import ProvisionError, TaskEvent, provision

REVISION = "1" * 40
WEIGHTS = os.urandom(1 << 20) * 16  # four seconds from a calm source


class Site:
    """A source with a model, and a playbook that has it fetched to this machine."""

    def __init__(self, tmp_path: Path, port: int) -> None:
        self.tmp, self.models, self.jobs = tmp_path, tmp_path / "models", tmp_path / "jobs"
        self.base = f"http://127.0.0.1:{port}/fault"
        self.inventory = tmp_path / "hosts.ini"
        here = f"ansible_connection=local ansible_python_interpreter={sys.executable}"
        self.inventory.write_text(f"here {here}\n")

    def book(self, *kinds: str, **words: Any) -> Path:
        """Writes a playbook that fetches from sources of these kinds."""
        name = f"{self.models}/tiny/{REVISION}"
        said: dict[str, Any] = {
            "name": "tiny",
            "revision": REVISION,
            "path": name,
            "sources": [
                {"kind": "files", "url": f"{self.base}/{kind}/tiny/{REVISION}/"} for kind in kinds
            ],
            "progress": f"{self.models}/tiny/.{REVISION}.progress.json",
            "jobs": str(self.jobs),
            **words,
        }
        task = {"name": "Fetch", "model_snapshot": said, "register": "fetched"}
        show = {"name": "Show", "ansible.builtin.debug": {"var": "fetched"}}
        path = self.tmp / "book.json"
        play = {"name": "Models", "hosts": "here", "gather_facts": False, "tasks": [task, show]}
        path.write_text(json.dumps([play]))
        return path

    def run(self, *kinds: str, check: bool = False, **words: Any) -> list[TaskEvent]:
        events: list[TaskEvent] = []
        book = self.book(*kinds, **words)
        provision(self.inventory, playbook=book, check=check, on_event=events.append)
        return events

    @property
    def weights(self) -> Path:
        return self.models / "tiny" / REVISION / "model.safetensors"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    served = tmp_path / "www/tiny" / REVISION
    served.mkdir(parents=True)
    (served / "model.safetensors").write_bytes(WEIGHTS)
    said = {"size": len(WEIGHTS), "sha256": hashlib.sha256(WEIGHTS).hexdigest()}
    manifest = {"format": 1, "revision": REVISION, "files": {"model.safetensors": said}}
    served.with_name(f"{REVISION}.json").write_text(json.dumps(manifest))
    command = [sys.executable, str(FAULTS), str(tmp_path / "www"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Site(tmp_path, int(process.stdout.readline()))
        process.kill()


def told(events: list[TaskEvent]) -> list[str]:
    return [event.message for event in events if event.kind == "progress"]


def test_progress_has_bytes_share_rate_and_time_left(site: Site) -> None:
    events = site.run("calm")
    assert site.weights.read_bytes() == WEIGHTS
    [first, *_] = [event for event in events if event.kind == "progress" and "%" in event.message]
    assert (first.host, first.task, first.stage) == ("here", "Fetch", "Models")
    assert first.message.startswith("model tiny: ")
    assert f"of {len(WEIGHTS) / 1e6:.1f} MB (" in first.message
    assert any("MB/s, about" in line and line.endswith(" s left") for line in told(events))
    assert [event.kind for event in events if event.task == "Fetch"][-1] == "changed"
    assert not list(site.jobs.iterdir())
    again = site.run("calm")
    assert not told(again)
    assert [event.kind for event in again if event.task == "Fetch"][-1] == "ok"


def test_check_mode_begins_nothing(site: Site) -> None:
    events = site.run("calm", check=True)
    assert [event.kind for event in events if event.task == "Fetch"][-1] == "changed"
    assert not site.jobs.exists()
    assert not site.models.exists()


def test_a_failure_and_a_source_that_was_left_are_the_module_s_own_words(site: Site) -> None:
    with pytest.raises(ProvisionError, match="could not be had from any of 1 sources"):
        site.run("wrong")
    site.run("wrong", "calm")
    assert site.weights.read_bytes() == WEIGHTS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_ends_what_it_began_on_the_host(
    site: Site, number: signal.Signals
) -> None:
    argv = [sys.executable, "-m", "ansible", "playbook", str(site.book("calm"))]
    argv += ["-i", str(site.inventory)]
    # As on a terminal: Ansible's output is written when it comes.
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        argv, cwd=PROJECT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout is not None
        assert any(heard(line) and "%" in line for line in run.stdout)
        [job] = site.jobs.iterdir()
        work = json.loads((job / "job.json").read_text())["pid"]
        run.send_signal(number)
        assert run.wait(20) != 0
        # One that was killed cannot end anything; its worker notices.
        until = time.monotonic() + 10
        while Path(f"/proc/{work}").exists() and time.monotonic() < until:
            time.sleep(0.1)
    assert not Path(f"/proc/{work}").exists()
    assert not list(site.jobs.iterdir())
    assert not site.weights.exists()
    # The next run goes on.
    assert list((site.models / "tiny").glob(f".{REVISION}.partial"))
    site.run("calm")
    assert site.weights.read_bytes() == WEIGHTS
