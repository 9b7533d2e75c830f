"""The benchmark of a second run: its figures, its verdicts, and how two states are compared."""

from __future__ import annotations

import io
import subprocess
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from vllm_ansible import paths
from vllm_ansible.bench import rerun
from vllm_ansible.bench.drifts import DRIFTS
from vllm_ansible.bench.rerun_report import (
    DriftVerdict,
    Handled,
    Rerun,
    RerunReport,
    Rounds,
)
from vllm_ansible.bench.state import _TIMES, _leaving, differing, without
from vllm_ansible.cli import bench
from vllm_ansible.cli.bench import app, print_rerun
from vllm_ansible.data import load_data
from vllm_ansible.inventory import read_inventory
from vllm_ansible.lab import LabSpec

if TYPE_CHECKING:
    from pathlib import Path

FOUND = [{"kind": "link", "subject": "/opt/vllm/current"}]


def runs(*seconds: float, tasks: int = 5, changed: int = 0) -> list[Rerun]:
    return [Rerun(seconds=s, tasks=tasks, changed=changed, stages={"Plan": s}) for s in seconds]


def rounds(fast: list[Rerun], long: list[Rerun], servers: int = 12) -> Rounds:
    return Rounds(servers=servers, first=300, fast=fast, long=long)


def handled(**changes: Any) -> Handled:
    return Handled(**{"found": FOUND, "changed": 1, "left": {}, **changes})


def verdict(**changes: Any) -> DriftVerdict:
    words = {"name": "link moved", "fast": handled(), "long": handled()}
    return DriftVerdict(**{**words, **changes})


def report(**changes: Any) -> RerunReport:
    good = rounds(runs(3.0, 5.0, 4.0), runs(100.0, 44.0, 40.0))
    return RerunReport(**{"rounds": [good], "drifts": [verdict()], **changes})


def test_a_factor_is_that_of_the_medians() -> None:
    (one,) = report().rounds
    assert (one.fast_seconds, one.long_seconds, one.factor) == (4.0, 44.0, 11.0)


def test_the_target_is_for_the_larger_number_of_servers() -> None:
    small, good = rounds(runs(4.0), runs(20.0), servers=1), report().rounds[0]
    assert report(rounds=[small, good]).met
    assert not report(rounds=[good, small]).met


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": [rounds(runs(4.0), runs(39.0))]},
        {"rounds": [rounds(runs(4.0, changed=1), runs(44.0))]},
        {"rounds": [rounds(runs(4.0), runs(44.0, changed=1))]},
        {"drifts": [verdict(fast=handled(found=[], changed=0))]},
        {"drifts": [verdict(fast=handled(found=[]), long=handled(found=[]))]},
        {"drifts": [verdict(long=handled(left={"/opt/vllm/current": ["a", "b"]}))]},
        {"drifts": [verdict(fast=handled(changed=0), long=handled(changed=0))]},
        {"drifts": [verdict(long=handled(changed=2))]},
    ],
)
def test_a_slow_a_busy_or_a_blind_fast_path_is_a_miss(changes: dict[str, Any]) -> None:
    assert report().met
    assert not report(**changes).met


def test_the_table_names_what_each_way_made_of_a_drift() -> None:
    text = io.StringIO()
    missed = verdict(name="file removed", fast=handled(found=[], changed=0))
    print_rerun(Console(file=text, width=160), report(drifts=[verdict(), missed]))
    said = text.getvalue()
    for words in ("4.0", "44.0", "11", "link: /opt/vllm/current", "file removed", "nothing"):
        assert words in said
    assert "not equal" in said
    assert "missed" in said


@pytest.mark.parametrize(("good", "status"), [(True, 0), (False, 3)])
def test_the_exit_status_tells_whether_the_target_is_met(
    monkeypatch: pytest.MonkeyPatch, good: bool, status: int
) -> None:
    made = report() if good else report(drifts=[verdict(fast=handled(found=[]))])
    asked: list[Any] = []

    def measure(*words: Any, **more: Any) -> RerunReport:
        asked.append((words, more))
        return made

    monkeypatch.setattr(rerun, "measure_rerun", measure)
    done = CliRunner().invoke(app, ["rerun", "--servers=3", "--rounds=2", "--json", "--no-drift"])
    assert done.exit_code == status, done.output
    assert '"factor": 11.0' in done.stdout
    ((words, more),) = asked
    assert words[:3] == (3, 2, IPv4Network("10.97.76.0/24"))
    assert more == {"drifts": (), "keep": False}


def test_its_inventory_is_the_stand_ins_for_as_many_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    made = rerun.write_inventory(tmp_path, "rerun", IPv4Network("10.97.76.0/24"), 3)
    again = rerun.write_inventory(tmp_path, "rerun", IPv4Network("10.97.76.0/24"), 12)
    assert made == again
    lab = LabSpec.from_inventory(again)
    assert (lab.name, len(lab.machines)) == ("rerun", 13)
    inventory = read_inventory(again)
    data = load_data(paths.DATA, rerun.STANDIN / "locks")
    assert len(inventory.hosts) == 12
    words = inventory.hosts[0].check().words
    assert words is not None
    assert words.engine.install == "wheel"
    assert (str(words.engine.version), "cpu", "3.10", "cpu-index") in data.locks


def test_each_drift_is_a_script_that_a_shell_can_read() -> None:
    assert len({one.name for one in DRIFTS}) == len(DRIFTS)
    for one in DRIFTS:
        done = subprocess.run(["sh", "-n", "-c", one.script], check=False)
        assert done.returncode == 0, one.name


def test_two_states_differ_by_what_is_other_gone_or_new() -> None:
    before = {"a": ["file", "644"], "b": ["link", "x"], "c": 1}
    after = {"a": ["file", "600"], "c": 1, "d": 2}
    found = {"a": [["file", "644"], ["file", "600"]], "b": [["link", "x"], None], "d": [None, 2]}
    assert differing(before, after) == found
    assert differing(before, dict(before)) == {}


def test_of_a_secret_mode_and_owner_are_compared_and_no_more() -> None:
    one = {"/etc/vllm/api_key": ["file", "600", "root", "root", "sum-of-one"]}
    other = {"/etc/vllm/api_key": ["file", "600", "root", "root", "sum-of-another"]}
    open_to_all = {"/etc/vllm/api_key": ["file", "644", "root", "root", "sum-of-one"]}
    secrets = ("/etc/vllm/api_key",)
    assert without(one, secrets) == without(other, secrets)
    assert without(one, secrets) != without(open_to_all, secrets)
    sealed = ({"receipt:files": [{"path": "/a", "seal": seal}]} for seal in ("one", "other"))
    assert without(next(sealed), secrets) == without(next(sealed), secrets)


def test_of_a_generation_s_copy_of_a_secret_as_much_is_compared_as_of_the_secret() -> None:
    secrets = ("/etc/vllm/api_key",)

    def kept(key: str, config: str = "c", mode: str = "600") -> dict[str, Any]:
        folder = "/var/lib/vllm/generations/abc/"
        sums = {"/etc/vllm/a.yaml": config, "/etc/vllm/api_key": key}
        files = [
            {"path": path, "sha256": sums[path], "copy": f"files/{n}"}
            for n, path in enumerate(sums)
        ]
        copies = {f"{folder}{one['copy']}": ["file", mode, "root", "root", one["sha256"]]
                  for one in files}  # fmt: skip
        return {f"{folder}generation.json:files": files, **copies}

    one = without(kept("one"), secrets)
    assert one == without(kept("another"), secrets)
    assert one != without(kept("one", config="other"), secrets)
    assert one != without(kept("one", mode="644"), secrets)


def test_when_a_thing_was_done_does_not_tell_states_apart() -> None:
    record = {"files": [{"path": "/a", "seen": {"mtime_ns": 1}}], "filled": 2.0}
    record |= {"saved": "2026-11-28T19:48:07Z", "written": {"/a": 1}}
    assert _leaving(record, _TIMES) == {"files": [{"path": "/a"}]}


def test_the_benchmark_waits_for_nobody_where_the_network_is_none() -> None:
    done = CliRunner().invoke(bench.app, ["rerun", "--subnet=here"])
    assert done.exit_code == 2
