"""The plan gets true facts of a host."""

from __future__ import annotations

import json
import os
import platform
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

from tests.unit.modules.conftest import ModuleRunner, write_program

if TYPE_CHECKING:
    from pathlib import Path


class Answers(BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *words: object) -> None:  # noqa: A002 - the base class's name
        pass


def test_the_host_is_described(module: ModuleRunner, tmp_path: Path) -> None:
    absent = str(tmp_path / "not/there")
    result = module(disk_paths=[absent, "/"], receipt_path=absent)
    facts = result["facts"]
    assert not result["changed"]
    assert facts["architecture"] == platform.machine()
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert facts["glibc"] == platform.libc_ver()[1]
    assert 0 < facts["memory_available_mib"] <= facts["memory_mib"]
    assert facts["numa_nodes"] >= 1
    assert facts["disk_free_mib"][absent] > 0
    assert facts["distribution"]
    assert facts["receipt"] is None
    assert facts["receipt_error"] is None


def test_an_address_is_reachable_only_when_it_answers_well(module: ModuleRunner) -> None:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # It accepts connections and never answers.
    mute = socket.create_server(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{server.server_address[1]}"
    silent = f"http://127.0.0.1:{mute.getsockname()[1]}/"
    refused = "http://127.0.0.1:1/"
    began = time.monotonic()
    urls = [f"{base}/200", f"{base}/404", f"{base}/503", silent, refused, "nonsense"]
    facts = module(probe_urls=urls, probe_timeout=1)["facts"]
    assert time.monotonic() - began < 8
    assert [url for url, well in facts["reachable"].items() if well] == [f"{base}/200"]
    assert facts["unreachable"][f"{base}/404"] == "status 404"
    assert set(facts["unreachable"]) == set(urls[1:])
    server.shutdown()
    server.server_close()
    mute.close()


def test_the_receipt_is_read_and_a_damaged_one_is_told(
    module: ModuleRunner, tmp_path: Path
) -> None:
    receipt = tmp_path / "receipt.json"
    receipt.write_text(json.dumps({"format": 1, "plan_digest": "d"}))
    assert module(receipt_path=str(receipt))["facts"]["receipt"]["plan_digest"] == "d"
    receipt.write_text("{")
    facts = module(receipt_path=str(receipt))["facts"]
    assert facts["receipt"] is None
    assert str(receipt) in facts["receipt_error"]


def test_gpus_are_listed_as_nvidia_smi_tells_them(module: ModuleRunner, programs: Path) -> None:
    # Written after nvidia-smi's manual; the second is a GPU that shares the host's memory.
    write_program(
        programs / "nvidia-smi",
        "#!/bin/sh\ncat <<'END'\n"
        "NVIDIA H200, 143771, 9.0, Disabled, 580.65.06, GPU-1\n"
        "NVIDIA GB10, [N/A], 12.1, [N/A], 580.65.06, GPU-2\nEND\n",
    )
    facts = module()["facts"]
    assert facts["gpu_driver"] == "580.65.06"
    assert facts["gpu_error"] is None
    first, second = facts["gpus"]
    assert first["name"] == "NVIDIA H200"
    assert first["memory_mib"] == 143771
    assert first["compute_capability"] == "9.0"
    assert not first["mig"]
    assert second["memory_mib"] is None


def test_a_driver_that_fails_is_told(module: ModuleRunner, programs: Path) -> None:
    write_program(programs / "nvidia-smi", "#!/bin/sh\necho 'no driver is loaded'\nexit 9\n")
    facts = module()["facts"]
    assert facts["gpus"] == []
    assert facts["gpu_driver"] is None
    assert "no driver is loaded" in facts["gpu_error"]
