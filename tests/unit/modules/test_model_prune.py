"""Only what nobody uses goes, and only when that was asked for."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.modules.conftest import ModuleRunner

OLD, NEW = "1" * 40, "2" * 40
WEIGHTS = b"w" * 50_000


class Host:
    """Models, configurations and a receipt below one directory."""

    def __init__(self, tmp_path: Path, module: ModuleRunner) -> None:
        self.module, self.root = module, tmp_path / "models"
        self.etc, self.receipt = tmp_path / "etc", tmp_path / "receipt.json"
        self.etc.mkdir()

    def snapshot(self, revision: str, name: str = "tiny") -> Path:
        path = self.root / name / revision
        path.mkdir(parents=True)
        (path / "model.safetensors").write_bytes(WEIGHTS)
        path.with_name(f"{revision}.json").write_text(json.dumps({"format": 1, "files": {}}))
        return path

    def partial(self, revision: str, name: str = "tiny") -> Path:
        path = self.root / name / f".{revision}.partial"
        (path / "store").mkdir(parents=True)
        (path / "store/part").write_bytes(WEIGHTS)
        return path

    def run(self, **changes: Any) -> dict[str, Any]:
        words = {
            "root": str(self.root),
            "configurations": str(self.etc),
            "receipt": str(self.receipt),
            "generations": str(self.receipt.parent / "generations"),
        }
        return self.module(**{**words, **changes})

    def only(self, **changes: Any) -> dict[str, Any]:
        [entry] = self.run(**changes)["snapshots"]
        return dict(entry)


@pytest.fixture
def host(tmp_path: Path, module: ModuleRunner) -> Host:
    return Host(tmp_path, module)


def test_a_list_says_name_revision_size_age_and_why_and_changes_nothing(host: Host) -> None:
    path = host.snapshot(OLD)
    manifest = path.with_name(f"{OLD}.json")
    os.utime(manifest, (time.time() - 90_000,) * 2)
    result = host.run(keep=[f"tiny/{NEW}"])
    [entry] = result["snapshots"]
    assert not result["changed"]
    assert (entry["name"], entry["revision"], entry["kind"]) == ("tiny", OLD, "snapshot")
    assert (entry["state"], entry["used_by"]) == ("unused", [])
    assert entry["why"] == f"{NEW[:12]} is used instead"
    assert len(WEIGHTS) <= entry["bytes"] <= len(WEIGHTS) + 30_000
    assert result["unused_bytes"] == entry["bytes"]
    assert 90_000 <= entry["age_s"] < 90_100
    assert path.is_dir()


def test_what_is_unused_goes_on_request_and_check_mode_says_so(host: Host) -> None:
    gone, stays = host.snapshot(OLD), host.snapshot(NEW)
    host.snapshot(OLD, "other")
    wanted = {"keep": [f"tiny/{NEW}"], "remove": True}
    would = host.run(check=True, **wanted)
    assert gone.is_dir()
    assert [entry["state"] for entry in would["snapshots"]] == ["would go", "would go", "used"]
    did = host.run(**wanted)
    assert would["changed"]
    assert did["changed"]
    assert would["freed_bytes"] == did["freed_bytes"] > 2 * len(WEIGHTS)
    assert did["diff"] == would["diff"]
    assert sorted(path.name for path in host.root.iterdir()) == ["tiny"]
    assert sorted(path.name for path in stays.parent.iterdir()) == [NEW, f"{NEW}.json"]
    assert not host.run(**wanted)["changed"]


def test_a_configuration_keeps_its_model(host: Host) -> None:
    path = host.snapshot(OLD)
    (host.etc / "chat.yaml").write_text(f"model: {path}\n")
    assert host.only(remove=True)["used_by"] == ["chat.yaml"]
    (host.etc / "chat.yaml").write_text(f"model: {path}-other\n")
    assert host.only()["used_by"] == []


def test_the_receipt_keeps_its_model(host: Host) -> None:
    path = host.snapshot(OLD)
    host.receipt.write_text(json.dumps({"content": {"models": [{"path": str(path)}]}}))
    assert host.only(remove=True)["used_by"] == ["the receipt"]


def test_what_can_be_gone_back_to_keeps_its_model(host: Host) -> None:
    path = host.snapshot(OLD)
    kept = host.receipt.parent / "generations/0123456789ab/receipt.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({"content": {"models": [{"path": str(path)}]}}))
    found = host.only(remove=True)
    assert (found["state"], found["used_by"]) == (
        "used",
        ["a generation that is kept to go back to"],
    )


def test_a_receipt_that_cannot_be_read_removes_nothing(host: Host) -> None:
    path = host.snapshot(OLD)
    host.receipt.write_text("{")
    assert "not known which models" in host.run(remove=True, fails=True)["msg"]
    assert path.is_dir()


def test_a_process_keeps_what_it_has_open(host: Host) -> None:
    path = host.snapshot(OLD)
    with (path / "model.safetensors").open("rb"):
        assert host.only(remove=True)["used_by"] == [f"process {os.getpid()}"]
    assert host.only()["state"] == "unused"


def test_a_process_keeps_what_it_has_mapped(host: Host) -> None:
    path = host.snapshot(OLD)
    with (path / "model.safetensors").open("rb") as weights:
        mapping = mmap.mmap(weights.fileno(), 0, prot=mmap.PROT_READ)
    assert host.only(remove=True)["state"] == "used"
    mapping.close()
    assert host.only()["state"] == "unused"


def test_a_process_keeps_what_its_arguments_name(host: Host) -> None:
    path = host.snapshot(OLD)
    with subprocess.Popen(["sh", "-c", "read -r _; : serve $1", "sh", str(path)], stdin=-1) as one:
        assert host.only(remove=True)["used_by"] == [f"process {one.pid}"]
        one.kill()


def test_an_interrupted_download_stays_while_the_next_run_goes_on_from_it(host: Host) -> None:
    path = host.partial(OLD)
    kept = host.only(keep=[f"tiny/{OLD}"], remove=True)
    assert kept["kind"] == "partial"
    assert kept["state"] == "used"
    assert "goes on from it" in kept["used_by"][0]
    assert host.only(remove=True)["state"] == "removed"
    assert not path.exists()


def test_a_download_that_is_under_way_stays(host: Host) -> None:
    path = host.partial(OLD)
    handle = os.open(path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert host.only(remove=True)["used_by"] == ["a run that is fetching it"]
    os.close(handle)
    assert host.only()["state"] == "unused"


def test_rests_go_and_what_is_not_ours_stays(host: Host) -> None:
    by_hand = host.snapshot(OLD)
    by_hand.with_name(f"{OLD}.json").unlink()
    (by_hand.parent / f".{NEW}.pruned").mkdir()
    (by_hand.parent / f"{NEW}.json").write_text("{}")
    (by_hand.parent / "notes.txt").write_text("mine")
    states = {Path(e["path"]).name: e["state"] for e in host.run(remove=True)["snapshots"]}
    assert states == {
        OLD: "kept",
        "notes.txt": "kept",
        f".{NEW}.pruned": "removed",
        f"{NEW}.json": "removed",
    }
    assert sorted(path.name for path in by_hand.parent.iterdir()) == [OLD, "notes.txt"]


def test_a_host_without_models_is_empty(host: Host) -> None:
    assert host.run(remove=True)["snapshots"] == []
