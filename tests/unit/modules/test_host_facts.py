"""The plan gets true facts of a host."""

from __future__ import annotations

import json
import os
import platform
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.unit.modules.conftest import ROOT, ModuleRunner, load, write_program


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
    processors = [cpu for node in facts["cpu_nodes"] for core in node for cpu in core]
    assert sorted(processors) == sorted(os.sched_getaffinity(0))
    assert facts["disk_free_mib"][absent] > 0
    assert facts["distribution"]
    assert facts["receipt"] is None
    assert facts["receipt_error"] is None


def told(root: Path, nodes: dict[int, dict[int, str]]) -> Path:
    """What a kernel tells of processors: by node and number, which run on the same core."""
    for node, cpus in nodes.items():
        (root / f"node/node{node}").mkdir(parents=True)
        (root / f"node/node{node}/cpulist").write_text(",".join(map(str, cpus)) + "\n")
        for cpu, siblings in cpus.items():
            (root / f"cpu/cpu{cpu}/topology").mkdir(parents=True)
            (root / f"cpu/cpu{cpu}/topology/thread_siblings_list").write_text(f"{siblings}\n")
    return root


def test_processors_are_told_by_node_and_core(
    module: ModuleRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = load(module.path, monkeypatch)
    # Two threads on each core; node 10 comes after node 9.
    two = {10: {2: "2,6", 3: "3,7", 6: "2,6", 7: "3,7"}, 9: {0: "0-1", 1: "0-1", 4: "4", 5: "5"}}
    root = told(tmp_path, two)
    nodes = [[[0, 1], [4], [5]], [[2, 6], [3, 7]]]
    assert known.cpu_nodes(set(range(8)), root) == nodes
    # What a process may not use is not there.
    assert known.cpu_nodes({0, 5}, root) == [[[0], [5]]]
    (root / "cpu/cpu5/topology/thread_siblings_list").unlink()
    assert known.cpu_nodes({0, 5}, root) == []
    assert known.cpu_nodes({0}, tmp_path / "none") == []


def test_users_without_an_account_are_told(module: ModuleRunner) -> None:
    facts = module(users=["root", "nobody-of-that-name"])["facts"]
    assert facts["missing_users"] == ["nobody-of-that-name"]


def test_an_address_is_reachable_only_when_it_answers_well(module: ModuleRunner) -> None:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # It accepts connections and never answers.
    mute = socket.create_server(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{server.server_address[1]}"
    silent = f"http://127.0.0.1:{mute.getsockname()[1]}/"
    refused = "http://127.0.0.1:1/"
    urls = [f"{base}/200", f"{base}/404", f"{base}/503", silent, refused, "nonsense"]
    facts = module(probe_urls=urls, probe_timeout=4)["facts"]
    assert [url for url, well in facts["reachable"].items() if well] == [f"{base}/200"]
    assert facts["unreachable"][f"{base}/404"] == "status 404"
    assert set(facts["unreachable"]) == set(urls[1:])
    server.shutdown()
    server.server_close()
    mute.close()


def test_a_directory_of_the_host_answers_when_it_is_there(
    module: ModuleRunner, tmp_path: Path
) -> None:
    there = tmp_path / "my wheels"
    there.mkdir()
    gone = (tmp_path / "gone").as_uri()
    facts = module(probe_urls=[there.as_uri(), gone])["facts"]
    assert facts["reachable"] == {there.as_uri(): True, gone: False}
    assert facts["unreachable"] == {gone: "no such file or directory"}


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


RECORDS = Path(__file__).parents[1] / "nvidia-smi"
FACTS = Path(__file__).parents[1] / "facts"


@pytest.fixture
def nvidia_smi(programs: Path) -> Path:
    """Put the stand-in of nvidia-smi first on PATH."""
    source = Path(__file__).parents[2] / "standins" / "nvidia-smi"
    return write_program(programs / "nvidia-smi", source.read_text("utf-8"))


@pytest.mark.usefixtures("nvidia_smi")
@pytest.mark.parametrize("record", sorted(path.parent.name for path in RECORDS.glob("*/query.csv")))
def test_gpus_and_their_slices_are_those_that_the_plans_tables_use(
    module: ModuleRunner, record: str
) -> None:
    told = module(env={"NVIDIA_SMI_RECORD": str(RECORDS / record)})["facts"]
    expected = json.loads((FACTS / f"gpu-{record}.json").read_text("utf-8"))
    for name in ("gpus", "gpu_driver", "gpu_error"):
        assert told[name] == expected[name], name


def test_a_gpu_that_shares_the_hosts_memory_has_no_figure(
    module: ModuleRunner, programs: Path
) -> None:
    line = "NVIDIA GB10, [N/A], 12.1, [N/A], 580.65.06, GPU-2"
    write_program(programs / "nvidia-smi", f"#!/bin/sh\necho '{line}'\n")
    (gpu,) = module()["facts"]["gpus"]
    assert gpu["memory_mib"] is None
    assert gpu["compute_capability"] == "12.1"


def test_a_driver_that_fails_is_told(module: ModuleRunner, programs: Path) -> None:
    write_program(programs / "nvidia-smi", "#!/bin/sh\necho 'no driver is loaded'\nexit 9\n")
    facts = module()["facts"]
    assert facts["gpus"] == []
    assert facts["gpu_driver"] is None
    assert "no driver is loaded" in facts["gpu_error"]


def test_a_driver_that_hangs_is_told_in_time(module: ModuleRunner, programs: Path) -> None:
    write_program(programs / "nvidia-smi", "#!/bin/sh\nexec sleep 600\n")
    facts = module(gpu_timeout=1)["facts"]
    assert facts["gpus"] == []
    assert "within 1 s" in facts["gpu_error"]


def test_nvidia_smi_that_never_returns_to_the_module_does_not_hold_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A process in a driver's system call outlives SIGKILL, and whoever waits for it waits for ever.
    facts = load(ROOT / "library" / "host_facts.py", monkeypatch)
    monkeypatch.setattr(facts, "run", lambda *_, **__: time.sleep(60))
    with pytest.raises(facts.HostError, match="reboot"):
        facts.ask_driver(["-L"], 0.1)


@pytest.mark.parametrize(
    ("vendor", "kind", "found"),
    [
        ("0x10de", "0x030200", ["10de:2335 at 0000:18:00.0"]),
        ("0x10de", "0x030000", ["10de:2335 at 0000:18:00.0"]),
        ("0x10de", "0x040300", []),  # the sound of a graphics card
        ("0x1234", "0x030000", []),
    ],
)
def test_a_gpu_without_a_driver_is_seen_on_the_bus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vendor: str, kind: str, found: list[str]
) -> None:
    device = tmp_path / "0000:18:00.0"
    device.mkdir()
    for name, word in (("vendor", vendor), ("device", "0x2335"), ("class", kind)):
        (device / name).write_text(f"{word}\n")
    facts = load(ROOT / "library" / "host_facts.py", monkeypatch)
    assert facts.nvidia_devices(tmp_path) == found
