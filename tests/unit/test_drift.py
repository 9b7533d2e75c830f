"""The program `scripts/drift`: what it prints, and by which status it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from vllm_ansible.cli import drift as cli
from vllm_ansible.drift import Difference, Drift, HostDrift, PartDrift, table
from vllm_ansible.provisioning import Failure, ProvisionError, ProvisionResult

if TYPE_CHECKING:
    from collections.abc import Callable

SHA = "8d1f0c6be0a1" * 5 + "8d1f"
EDITED = {"kind": "file sha256", "subject": "/etc/vllm/a.yaml", "expected": SHA, "found": "0" * 64}
STARTING = {"kind": "service starting", "subject": "vllm@a.service", "expected": "200", "found": ""}
QUIET = {"host": "cpu1", "parts": [{"part": "server"}]}
DRIFTED = {"host": "cpu2", "parts": [{"part": "server", "differences": [EDITED]}]}
WAITING = {"host": "cpu3", "parts": [{"part": "server", "differences": [STARTING]}]}
SILENT = {"host": "cpu4", "error": "unreachable: no route to host"}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Run the program on a site of which the playbook says this; None: it says nothing at all."""

    def run(*hosts: dict[str, Any], words: tuple[str, ...] = (), silent: bool = False) -> Any:
        def provision(_: Any, *, extra_vars: dict[str, Any], **more: Any) -> ProvisionResult:
            assert more["playbook"] == "playbooks/drift.yml"
            assert extra_vars["vllm_site_deep"] == ("--deep" in words)
            if not silent:
                report = {"hosts": list(hosts), "deep": False}
                Path(extra_vars["vllm_site_report"]).write_text(json.dumps(report))
            if silent or any(host not in (QUIET, WAITING) for host in hosts):
                failure = Failure(host="localhost", stage="Tell", task="", message="drift")
                raise ProvisionError("drift", [failure], ProvisionResult())
            return ProvisionResult()

        monkeypatch.setattr(cli, "provision", provision)
        return CliRunner().invoke(cli.app, ["-i", str(tmp_path), *words], env={"COLUMNS": "160"})

    return run


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        ([QUIET], 0),
        ([QUIET, WAITING], 0),
        ([QUIET, DRIFTED], 3),
        ([QUIET, SILENT], 1),
        ([DRIFTED, SILENT], 1),
    ],
)
def test_the_status_says_whether_there_is_drift(
    told: Callable[..., Any], hosts: list[dict[str, Any]], status: int
) -> None:
    assert told(*hosts).exit_code == status


def test_a_host_that_is_silent_is_told_beside_what_the_others_say(told: Callable[..., Any]) -> None:
    text = told(QUIET, DRIFTED, WAITING, SILENT).stdout
    assert "no drift" in text
    assert "/etc/vllm/a.yaml" in text
    assert SHA[:12] in text
    assert SHA[:13] not in text
    assert "service starting" in text
    assert "no route to host" in text
    assert "drift on cpu2; not looked at: cpu4" in text


def test_json_has_all_of_it(told: Callable[..., Any]) -> None:
    said = Drift.model_validate_json(told(DRIFTED, SILENT, words=("--json",)).stdout)
    assert said.drifted == ["cpu2"]
    assert said.unseen == ["cpu4"]
    assert said.hosts[0].parts[0].differences[0].expected == SHA


def test_a_run_that_could_not_look_at_all_is_an_error(told: Callable[..., Any]) -> None:
    assert told(silent=True).exit_code == 1


def test_a_deep_look_is_asked_for(told: Callable[..., Any]) -> None:
    assert told(QUIET, words=("--deep",)).exit_code == 0


def test_an_inventory_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    assert CliRunner().invoke(cli.app, ["-i", str(tmp_path / "none")]).exit_code == 2


def test_what_could_not_be_compared_is_no_drift() -> None:
    part = PartDrift(part="mirror", notice="the plan was not compared: nobody planned")
    drift = Drift(hosts=[HostDrift(host="store", parts=[part])])
    assert drift.drifted == []
    assert drift.verdict() == "1 host; no drift"


def test_a_long_path_is_whole_in_a_narrow_terminal() -> None:
    path = "/etc/vllm/python.d/kept_graphs-1.0.dist-info/entry_points.txt"
    one = Difference(kind="file", subject=path, expected="a regular file", found="none")
    drift = Drift(
        hosts=[HostDrift(host="cpu1", parts=[PartDrift(part="server", differences=[one])])]
    )
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table(drift))
    cells = [line.split("│")[4].strip() for line in capture.get().splitlines() if "│" in line]
    assert "".join(cells) == path
