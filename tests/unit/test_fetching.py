"""The action that has a model fetched says how far it is, and ends what it began on the host."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vllm_ansible.paths import PROJECT
from vllm_ansible.progress import heard
from vllm_ansible.provisioning import ProvisionError, TaskEvent, provision

REVISION = "1" * 40
WEIGHTS = os.urandom(1 << 20) * 16


class Source(BaseHTTPRequestHandler):
    """Serves a model's weights; the second half comes when it is let go."""

    go: threading.Event

    def do_GET(self) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        said = {"size": len(WEIGHTS), "sha256": hashlib.sha256(WEIGHTS).hexdigest()}
        manifest = {"format": 1, "revision": REVISION, "files": {"model.safetensors": said}}
        weights = bytes(len(WEIGHTS)) if self.path.startswith("/wrong/") else WEIGHTS
        content = json.dumps(manifest).encode() if self.path.endswith(".json") else weights
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        half = max(start, len(content) // 2)
        self.wfile.write(content[start:half])
        if content is weights:
            self.go.wait(300)
        self.wfile.write(content[half:])

    def log_message(self, *_: object) -> None:
        """Nobody wants to know."""


class Site:
    """A source with a model, and a playbook that has it fetched to this machine."""

    def __init__(self, tmp_path: Path, port: int) -> None:
        self.tmp, self.models, self.jobs = tmp_path, tmp_path / "models", tmp_path / "jobs"
        self.base = f"http://127.0.0.1:{port}"
        self.inventory = tmp_path / "hosts.ini"
        here = f"ansible_connection=local ansible_python_interpreter={sys.executable}"
        self.inventory.write_text(f"here {here}\n")

    def book(self, *kinds: str) -> Path:
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
        }
        task = {"name": "Fetch", "model_snapshot": said, "register": "fetched"}
        show = {"name": "Show", "ansible.builtin.debug": {"var": "fetched"}}
        path = self.tmp / "book.json"
        play = {"name": "Models", "hosts": "here", "gather_facts": False, "tasks": [task, show]}
        path.write_text(json.dumps([play]))
        return path

    def run(self, *kinds: str, check: bool = False) -> list[TaskEvent]:
        """Fetches; the source goes on when it was heard that half of it is here."""
        events: list[TaskEvent] = []

        def hear(event: TaskEvent) -> None:
            events.append(event)
            if "(50 %)" in event.message:
                Source.go.set()

        provision(self.inventory, playbook=self.book(*kinds), check=check, on_event=hear)
        return events

    @property
    def weights(self) -> Path:
        return self.models / "tiny" / REVISION / "model.safetensors"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    Source.go = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Source)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Site(tmp_path, server.server_port)
    Source.go.set()
    server.shutdown()
    server.server_close()


def told(events: list[TaskEvent]) -> list[str]:
    return [event.message for event in events if event.kind == "progress"]


def test_progress_is_told_while_the_work_goes_on(site: Site) -> None:
    events = site.run("good")
    assert site.weights.read_bytes() == WEIGHTS
    half = next(event for event in events if "(50 %)" in event.message)
    assert (half.kind, half.host, half.task, half.stage) == ("progress", "here", "Fetch", "Models")
    assert half.message.startswith("model tiny: 8.39 MB of 16.8 MB (50 %) from 127.0.0.1:")
    assert [event.kind for event in events if event.task == "Fetch"][-1] == "changed"
    assert not list(site.jobs.iterdir())
    again = site.run("good")
    assert not told(again)
    assert [event.kind for event in again if event.task == "Fetch"][-1] == "ok"


def test_check_mode_begins_nothing(site: Site) -> None:
    events = site.run("good", check=True)
    assert [event.kind for event in events if event.task == "Fetch"][-1] == "changed"
    assert not site.jobs.exists()
    assert not site.models.exists()


def test_a_failure_and_a_source_that_was_left_are_the_module_s_own_words(site: Site) -> None:
    Source.go.set()
    with pytest.raises(ProvisionError, match="could not be had from any of 1 sources"):
        site.run("wrong")
    site.run("wrong", "good")
    assert site.weights.read_bytes() == WEIGHTS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_ends_what_it_began_on_the_host(
    site: Site, number: signal.Signals
) -> None:
    argv = [sys.executable, "-m", "ansible", "playbook", str(site.book("good"))]
    argv += ["-i", str(site.inventory)]
    # As on a terminal: Ansible's output is written when it comes.
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        argv, cwd=PROJECT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout is not None
        assert any(heard(line) and "(50 %)" in line for line in run.stdout)
        [job] = site.jobs.iterdir()
        work = json.loads((job / "job.json").read_text())["pid"]
        run.send_signal(number)
        assert run.wait(120) != 0
        # One that was killed cannot end anything; its worker notices.
        until = time.monotonic() + 60
        while Path(f"/proc/{work}").exists() and time.monotonic() < until:
            time.sleep(0.1)
    assert not Path(f"/proc/{work}").exists()
    assert not list(site.jobs.iterdir())
    assert not site.weights.exists()
    # The next run goes on.
    assert list((site.models / "tiny").glob(f".{REVISION}.partial"))
    Source.go.set()
    site.run("good")
    assert site.weights.read_bytes() == WEIGHTS
