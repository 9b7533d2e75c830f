"""A receipt says what was carried out, and finds whatever is no longer so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.modules.conftest import ModuleRunner, write_program

if TYPE_CHECKING:
    from pathlib import Path

SYSTEMCTL = """#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/systemctl.calls"
cat "$here/units"
"""
GOOD = "ActiveState=active\nUnitFileState=enabled\n"


class Host:
    """A host with two files, a link, a release, a model and two units."""

    def __init__(self, tmp: Path, programs: Path, module: ModuleRunner) -> None:
        self.tmp, self.module, self.programs = tmp, module, programs
        write_program(programs / "systemctl", SYSTEMCTL)
        self.units(GOOD + "\n" + GOOD)
        self.receipt = tmp / "lib/receipt.json"
        self.plain, self.secret = tmp / "plain.yaml", tmp / "api_key"
        self.plain.write_text("a: 1\n")
        self.secret.write_text("hunter2")
        self.secret.chmod(0o600)
        self.link, self.release = tmp / "current", tmp / "release"
        self.release.mkdir()
        (self.release / ".vllm-release.json").write_text('{"stage": "complete"}')
        self.link.symlink_to(self.release)
        self.model = tmp / "model/abc"
        self.model.mkdir(parents=True)
        (self.model / "weights").write_bytes(bytes(10))
        manifest = {"files": {"weights": {"size": 10, "sha256": ""}}}
        (tmp / "model/abc.json").write_text(json.dumps(manifest))

    def units(self, text: str) -> None:
        (self.programs / "units").write_text(text)

    def present(self, **changes: Any) -> dict[str, Any]:
        content = {"release": {"path": str(self.release)}, "models": [{"path": str(self.model)}]}
        files = [{"path": str(self.plain)}, {"path": str(self.secret), "secret": True}]
        params: dict[str, Any] = {"path": str(self.receipt), "plan_digest": "d1", "files": files}
        params.update(content=content, units=["vllm@tiny.service", "nginx.service"])
        params["links"] = [{"path": str(self.link), "target": str(self.release)}]
        return self.module(**{"state": "present", **params, **changes})

    def check(self, digest: str = "d1", **changes: Any) -> dict[str, Any]:
        return self.module(state="check", path=str(self.receipt), plan_digest=digest, **changes)


@pytest.fixture
def host(tmp_path: Path, programs: Path, module: ModuleRunner) -> Host:
    return Host(tmp_path, programs, module)


def test_it_is_written_once_private_and_without_secrets(host: Host) -> None:
    assert host.present(check=True)["changed"]
    assert not host.receipt.exists()
    first = host.present()
    assert first["changed"]
    assert oct(host.receipt.stat().st_mode & 0o7777) == "0o600"
    written = json.loads(host.receipt.read_text())
    assert written["format"] == 1
    plain, secret = written["files"]
    assert len(plain["sha256"]) == 64
    assert secret["mode"] == "0600"
    assert "sha256" not in secret
    assert "hunter2" not in host.receipt.read_text()
    assert not host.present()["changed"]
    host.receipt.chmod(0o644)
    assert host.present()["changed"]


def test_a_host_as_recorded_is_current_by_one_call_of_systemctl(host: Host) -> None:
    host.present()
    result = host.check()
    assert result["current"]
    assert result["differences"] == []
    assert len((host.programs / "systemctl.calls").read_text().splitlines()) == 1


def test_a_host_without_a_receipt_is_not_current(host: Host) -> None:
    result = host.check()
    assert not result["current"]
    assert result["differences"][0]["found"] == "none"
    assert result["receipt"] is None


@pytest.mark.parametrize(
    ("damage", "kind", "found"),
    [
        ("echo b >> plain.yaml", "file sha256", ""),
        ("chmod 0666 plain.yaml", "file mode", "0666"),
        ("chmod 0644 api_key", "file mode", "0644"),
        ("rm api_key", "file", "none"),
        ("ln -sfn /elsewhere current", "link", "/elsewhere"),
        ("rm current", "link", "no link"),
        ("truncate -s 5 model/abc/weights", "model", "5 bytes"),
        ("rm model/abc/weights", "model", "no file"),
        ("rm model/abc.json", "model", "none"),
        ("rm release/.vllm-release.json", "release", "no marker"),
    ],
)
def test_drift_is_found_and_named(host: Host, damage: str, kind: str, found: str) -> None:
    import subprocess

    host.present()
    subprocess.run(["sh", "-c", damage], cwd=host.tmp, check=True)
    [item] = host.check()["differences"]
    assert item["kind"] == kind
    assert found in item["found"]


def test_units_that_are_down_or_disabled_are_named(host: Host) -> None:
    host.present()
    host.units("ActiveState=failed\nUnitFileState=enabled\n\nActiveState=active\nUnitFileState=\n")
    first, second = host.check()["differences"]
    assert (first["subject"], first["found"]) == ("vllm@tiny.service", "failed")
    assert (second["subject"], second["found"]) == ("nginx.service", "not there")


def test_another_plan_is_a_difference(host: Host) -> None:
    host.present()
    [item] = host.check("d2")["differences"]
    assert (item["kind"], item["expected"], item["found"]) == ("plan", "d2", "d1")


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", '{"format": "x"}'])
def test_a_damaged_receipt_is_as_none_and_is_written_anew(host: Host, text: str) -> None:
    host.present()
    host.receipt.write_text(text, encoding="latin-1")
    result = host.check()
    assert not result["current"]
    assert "corrupt" in result["differences"][0]["found"]
    assert host.present()["changed"]
    assert host.check()["current"]


def test_a_receipt_of_a_newer_version_is_not_touched(host: Host) -> None:
    host.present()
    newer = json.dumps({"format": 2, "project_version": "9.9"})
    host.receipt.write_text(newer)
    for result in (host.check(fails=True), host.present(fails=True)):
        assert "format 2" in result["msg"]
        assert "9.9" in result["msg"]
    assert host.receipt.read_text() == newer


def test_a_receipt_that_would_not_be_true_is_refused(host: Host) -> None:
    host.plain.unlink()
    host.link.unlink()
    result = host.present(fails=True)
    assert str(host.plain) in result["msg"]
    assert str(host.link) in result["msg"]
    assert not host.receipt.exists()
    assert host.present(check=True)["changed"]
