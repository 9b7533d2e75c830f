"""A site fetches a model once; what nobody uses is listed and goes on request."""

import json
import subprocess
import sys

import pytest
from conftest import (
    ENVIRONMENT,
    HERE,
    INVENTORY,
    REVISION,
    SERVERS,
    SIZE,
    fetch,
    git,
    machine,
    outside,
    state,
)

from vllm_ansible.paths import PROJECT
from vllm_ansible.provisioning import provision

MOST_BYTES = 1.05


def provide(*servers):
    """Provision anew a site that has no model, and return the bytes that the outside has sent."""
    machine("store").check_output("rm -rf /srv/mirror/models/shards")
    for server in SERVERS:
        machine(server).check_output("rm -rf /srv/models/shards")
    with outside() as came:
        provision(
            INVENTORY,
            playbook=HERE / "converge.yml",
            limit=",".join([*servers, "store", "localhost"]),
        )
        return came()


def test_three_servers_cost_the_outside_what_one_costs(figure):
    one, three = provide("cpu1"), provide(*SERVERS)
    figure(f"bytes from outside, one server: {one}, three: {three}, ratio {three / one:.4f}")
    assert one > SIZE
    assert three / one <= MOST_BYTES


@pytest.mark.parametrize("name", [*SERVERS, "store"])
def test_all_have_the_same_model(name):
    root = "/srv/mirror/models" if name == "store" else "/srv/models"
    path = f"{root}/shards/{REVISION}"
    sums = state(machine(name), path)[1].replace(path, "")
    assert sums.count("\n") == 4
    assert sums == state(machine("cpu1"), f"/srv/models/shards/{REVISION}")[1].replace(
        f"/srv/models/shards/{REVISION}", ""
    )


def prune(tmp_path, *options):
    """Run the playbook as an operator does; return its output and what it found, by host."""
    report = tmp_path / "prune.json"
    argv = [sys.executable, "-m", "ansible", "playbook", "playbooks/prune.yml"]
    argv += ["-i", str(INVENTORY), "-e", f"prune_report={report}", *options]
    done = subprocess.run(
        argv, cwd=PROJECT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, {one["host"]: one for one in json.loads(report.read_text())}


def test_what_nobody_uses_is_listed_and_removed_on_request(cpu1, store, tmp_path):
    old, held = f"/srv/models/old/{REVISION}", f"/srv/models/held/{REVISION}"
    for name in ("old", "held"):
        assert not fetch(name, git(), root="/srv/models").failed
    assert fetch("begun", git("/fault/missing"), root="/srv/models").failed
    store.check_output(f"mkdir -p /srv/mirror/models/gone/.{'0' * 40}.partial")
    cpu1.check_output(f"systemd-run --unit=held tail -f {held}/config.json")

    def states(found):
        return {entry["name"]: entry["state"] for entry in found["cpu1"]["snapshots"]}

    wanted = {"begun": "unused", "held": "used", "old": "unused", "shards": "used"}
    text, listed = prune(tmp_path)
    assert states(listed) == wanted
    entry = next(one for one in listed["cpu1"]["snapshots"] if one["name"] == "old")
    assert SIZE <= entry["bytes"] <= 1.05 * SIZE
    assert f"{REVISION[:12]}  snapshot  67.1 MB" in text
    would = {name: "would go" if one == "unused" else one for name, one in wanted.items()}
    assert states(prune(tmp_path, "-e", "prune_remove=true", "--check")[1]) == would
    assert cpu1.file(old).is_directory
    _, removed = prune(tmp_path, "-e", "prune_remove=true")
    assert states(removed) == {n: "removed" if s == "unused" else s for n, s in wanted.items()}
    assert cpu1.check_output("ls /srv/models").split() == ["held", "shards"]
    assert store.check_output("ls /srv/mirror/models").split() == ["shards"]
