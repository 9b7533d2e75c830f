"""The benchmark's figures: what is counted, what is compared, and when a target is missed."""

import io
import json
import re
import shutil
import subprocess
from ipaddress import IPv4Network

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from vllm_ansible import paths
from vllm_ansible.bench import Count, Run, SitesReport
from vllm_ansible.bench.measure import count_builds
from vllm_ansible.bench.site import Site, names
from vllm_ansible.bench.traffic import counted, rules, since
from vllm_ansible.cli.bench import app, print_sites
from vllm_ansible.data import read_lock
from vllm_ansible.inventory import read_inventory
from vllm_ansible.lab import LabError, LabSpec


def run(servers=1, added=1, seconds=100.0, outside=1000, compilations=1, into=None):
    traffic = {"store": Count(internet=outside)} | (into or {})
    return Run(
        servers=servers, added=added, seconds=seconds, stages={"Plan": 2.0, "Engine": 40.0},
        traffic=traffic, compilations=compilations, answers={"cpu1": "Paris."},
    )  # fmt: skip


def report(install="source", **changes):
    runs = {
        "one": run(),
        "more": run(servers=4, added=3, seconds=60.0, outside=10, compilations=0),
        "all": run(servers=4, added=4, seconds=160.0, outside=1040),
    }
    return SitesReport(install=install, engine="an engine", **(runs | changes))


def verdict(found, name):
    return next(one for one in found.verdicts if one.name == name)


# -- ratios -----------------------------------------------------------------------------------


def test_each_further_server_is_the_difference_of_both_sites_shared_among_them():
    found = report()
    assert (found.further_seconds, found.further_ratio) == (20.0, 0.2)
    assert (found.added_seconds, found.added_ratio) == (20.0, 0.2)
    assert found.met


def test_bytes_of_all_machines_and_of_both_ways_in_count():
    into = {"cpu1": Count(internet=30, origin=10), "cpu2": Count(origin=20)}
    found = report(all=run(servers=4, added=4, seconds=160.0, outside=1000, into=into))
    assert found.all.outside == 1060
    assert found.bytes_ratio == 1.06
    assert not verdict(found, "bytes").met
    assert not found.met


def test_a_second_compilation_is_a_miss_and_so_is_none():
    for compilations in (0, 2):
        found = report(all=run(servers=4, added=4, seconds=160.0, compilations=compilations))
        assert not verdict(found, "compilations").met
    added = report(more=run(servers=4, added=3, seconds=60.0, compilations=1))
    assert not verdict(added, "compilations, then added").met


def test_a_wheel_is_compiled_by_nobody():
    none = run(compilations=0)
    more = run(servers=4, added=3, compilations=0)
    every = run(servers=4, added=4, seconds=160.0, compilations=0)
    assert report("wheel", one=none, more=more, all=every).met
    assert not report("wheel", more=more, all=every).met


def test_a_slow_further_server_is_a_miss():
    found = report(all=run(servers=4, added=4, seconds=191.0))
    assert found.further_ratio == pytest.approx(0.3033)
    assert not verdict(found, "further server").met


def test_json_has_figures_ratios_and_verdicts():
    content = json.loads(report().model_dump_json())
    assert content["bytes_ratio"] == 1.04
    assert content["all"]["outside"] == 1040
    assert content["all"]["traffic"]["store"] == {"internet": 1040, "origin": 0}
    assert [one["met"] for one in content["verdicts"]] == [True] * 4


def test_the_table_names_what_is_missed():
    text = io.StringIO()
    slow = report(all=run(servers=4, added=4, seconds=300.0, outside=1040))
    print_sites(Console(file=text, width=120), slow)
    lines = text.getvalue().splitlines()
    assert re.search(r"further server .*0\.66\d.*0\.3.*missed", "\n".join(lines))
    assert any(re.search(r"bytes .*1\.04.*1\.05.*met", line) for line in lines)
    assert any("4 at once" in line for line in lines)


# -- counters ---------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path):
    site = Site("wheel", "bench-2", IPv4Network("10.97.65.0/24"), 2)
    return LabSpec.from_inventory(site.write(tmp_path, 2))


def test_what_nft_prints_is_bytes_by_machine():
    listing = {
        "nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"counter": {"name": "cpu_1", "family": "inet", "packets": 2, "bytes": 3000}},
            {"counter": {"name": "store", "family": "inet", "packets": 0, "bytes": 0}},
        ]
    }
    assert counted(listing) == {"cpu-1": 3000, "store": 0}


@pytest.mark.parametrize("listing", [{}, {"nftables": [{"counter": {"name": "cpu1"}}]}])
def test_an_unknown_form_is_an_error_and_not_nothing(listing):
    with pytest.raises(LabError, match="counters are not understood"):
        counted(listing)


def test_a_reading_is_what_came_since_the_one_before():
    before = {"store": Count(internet=5, origin=7)}
    after = {"store": Count(internet=6, origin=17), "cpu1": Count(internet=3)}
    assert since(before, after) == {
        "store": Count(internet=1, origin=10),
        "cpu1": Count(internet=3),
    }


def test_each_machine_but_the_origin_has_a_counter_of_either_way_in(lab):
    text = rules(lab, "origin")
    for address, name in (("10.97.65.3", "store"), ("10.97.65.12", "cpu2")):
        assert f'oifname "vl-bench-2" ip daddr {address} counter name {name}' in text
        assert f"ip saddr 10.97.65.2 ip daddr {address} counter name {name}" in text
    assert "ip daddr 10.97.65.2 " not in text
    # It counts and decides nothing.
    assert "drop" not in text
    assert text.count("policy accept") == 2


@pytest.mark.skipif(not shutil.which("nft"), reason="nft is not here")
def test_nft_takes_the_rules(lab):
    done = subprocess.run(
        ["nft", "--check", "-f", "-"],
        input=rules(lab, "origin"),
        text=True,
        capture_output=True,
        check=False,
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("nft asks for root")
    assert (done.returncode, done.stderr) == (0, "")


def test_builds_are_counted_by_their_units():
    journal = [
        {"UNIT": "vllm-build-0.31.0-cpu.service"},
        {"UNIT": "nginx.service"},
        {"USER_UNIT": "x.service"},
    ]
    assert count_builds("\n".join(map(json.dumps, journal)) + "\n") == 1
    assert count_builds("") == 0


# -- inventories ------------------------------------------------------------------------------


@pytest.mark.parametrize("install", ["wheel", "source"])
def test_the_inventory_is_one_that_the_schema_takes(tmp_path, install):
    site = Site(install, "bench-4", IPv4Network("10.97.65.0/24"), 4)
    found = read_inventory(site.write(tmp_path, 4))
    assert found.problems() == []
    assert [host.host for host in found.hosts] == names(4)
    assert found.site.door == "10.97.65.3:8080"
    words = [host.check().words for host in found.hosts]
    engines = {one.engine.install for one in words if one}
    assert engines == ({"source"} if install == "source" else {"auto"})


def test_servers_are_added_to_the_same_inventory(tmp_path):
    site = Site("wheel", "bench-1", IPv4Network("10.97.65.0/24"), 4)
    first = LabSpec.from_inventory(site.write(tmp_path, 1))
    then = LabSpec.from_inventory(site.write(tmp_path, 4))
    assert [one.name for one in first.machines] == ["origin", "store", "cpu1"]
    assert {one.name: one.address for one in first.machines}.items() <= {
        one.name: one.address for one in then.machines
    }.items()


def test_nothing_that_the_controller_keeps_is_used(tmp_path):
    site = Site("source", "bench-1", IPv4Network("10.97.65.0/24"), 4)
    other = Site("source", "bench-4", IPv4Network("10.97.65.0/24"), 4)
    words = site.environment(tmp_path)
    assert words["VLLM_ANSIBLE_CACHE"] != other.environment(tmp_path)["VLLM_ANSIBLE_CACHE"]
    assert words["VLLM_ANSIBLE_CACHE"].startswith(str(tmp_path))


def test_the_miniature_s_lock_is_of_the_lab_s_version_and_has_the_real_pins(tmp_path):
    (path,) = (paths.PROJECT / "tests/miniature/locks").glob("*.txt")
    lab = yaml.safe_load((paths.PROJECT / "inventories/lab/group_vars/vllm.yml").read_text())
    assert path.name == f"vllm-{lab['vllm_engine']['version']}-cpu-py3.10-cpu-index.txt"
    miniature, real = read_lock(path), read_lock(paths.LOCKS / path.name)
    own = {"torch==2.13.0+standin"}
    assert set(miniature.pins) - own <= set(real.pins)
    assert own <= set(miniature.pins)


# -- the command ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [["sites", "--servers", "1"], ["sites", "--subnet", "here"], ["sites", "--install", "x"]],
)
def test_wrong_usage_is_told_before_anything_is_done(words):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


@pytest.mark.parametrize(("seconds", "status"), [(160.0, 0), (300.0, 3)])
def test_the_exit_status_tells_a_missed_target(monkeypatch, seconds, status):
    found = report(all=run(servers=4, added=4, seconds=seconds))
    monkeypatch.setattr("vllm_ansible.bench.measure.measure_sites", lambda *_, **__: found)
    done = CliRunner().invoke(app, ["sites", "--install", "source", "--json"])
    assert done.exit_code == status
    assert json.loads(done.stdout)["further_ratio"] == found.further_ratio


def test_a_lab_that_cannot_be_had_is_a_failure(monkeypatch):
    def fail(*_, **__):
        raise LabError("no room for a lab")

    monkeypatch.setattr("vllm_ansible.bench.measure.measure_sites", fail)
    done = CliRunner().invoke(app, ["sites"])
    assert done.exit_code == 1
    assert "no room for a lab" in done.stderr
