"""The list of model snapshots can be read at a glance; what an inventory names is what stays."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.unit.test_inventory import INSTANCES
from vllm_ansible.data import project_data
from vllm_ansible.inventory import read_inventory
from vllm_ansible.paths import PROJECT
from vllm_ansible.pruning import table, wanted

REVISION = project_data().models["qwen2.5-0.5b-instruct"].revision
ENTRY = {
    "name": "tiny",
    "revision": "1" * 40,
    "path": "/srv/models/tiny/1",
    "kind": "snapshot",
    "bytes": 3_010_000,
    "age_s": 3 * 86400,
    "used_by": [],
    "why": "nothing names it",
    "state": "unused",
}


def test_the_table_has_a_line_for_each_and_a_sum():
    used = {**ENTRY, "name": "a-longer-name", "age_s": 120, "why": "", "state": "used"}
    used["used_by"] = ["the inventory", "chat.yaml"]
    lines = table({"snapshots": [ENTRY, used], "unused_bytes": 3_010_000}, "/x").splitlines()
    assert [" ".join(line.split()) for line in lines[1:3]] == [
        "tiny 111111111111 snapshot 3.01 MB 3 d unused nothing names it",
        "a-longer-name 111111111111 snapshot 3.01 MB 2 min used the inventory, chat.yaml",
    ]
    assert len({line.index("snapshot") for line in lines[1:3]}) == 1
    assert lines[3] == "1 unused, 3.01 MB: -e prune_remove=true removes"


def test_the_sum_says_what_became_of_them():
    for state in ("removed", "would go"):
        found = {"snapshots": [{**ENTRY, "state": state}], "freed_bytes": 3_010_000}
        assert table(found, "/x").splitlines()[-1] == f"1 {state}, 3.01 MB"
    assert table({"snapshots": []}, "/x") == "no model snapshots in /x"


def test_an_inventory_wants_the_revisions_of_its_instances_models(tmp_path):
    (tmp_path / "hosts.yml").write_text("vllm: {hosts: {one: {}}}\n")
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/vllm.yml").write_text(INSTANCES)
    words = read_inventory(tmp_path).hosts[0].check().words
    assert words is not None
    assert wanted(words, project_data()) == {f"qwen2.5-0.5b-instruct/{REVISION}"}


def test_the_playbook_keeps_on_the_mirror_host_what_any_server_names(tmp_path):
    """The playbook itself, on this machine, with a mirror host's directory of its own."""
    root = tmp_path / "mirror/models/qwen2.5-0.5b-instruct"
    for revision in (REVISION, "1" * 40):
        (root / revision).mkdir(parents=True)
        (root / f"{revision}.json").write_text("{}")
    here = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
    }
    mirror = {"address": "192.0.2.1", "root": str(tmp_path / "mirror")}
    instances = [{"name": "a", "model": "qwen2.5-0.5b-instruct"}]
    groups = {
        "vllm": {"hosts": {"one": {}}, "vars": {**here, "vllm_instances": instances}},
        "mirror": {"hosts": {"store": {}}, "vars": {**here, "vllm_mirror": mirror}},
    }
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"children": groups}}))
    argv = [sys.executable, "-m", "ansible", "playbook", "playbooks/prune.yml"]
    argv += ["-i", str(tmp_path / "hosts.json"), "--limit", "mirror,localhost"]
    argv += ["-e", "prune_remove=true", "-e", f"prune_report={tmp_path}/report.json"]
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [found] = json.loads((tmp_path / "report.json").read_text())
    states = {entry["revision"]: entry["state"] for entry in found["snapshots"]}
    assert states == {REVISION: "used", "1" * 40: "removed"}
    assert (found["host"], found["root"]) == ("store", str(tmp_path / "mirror/models"))
    assert sorted(path.name for path in root.iterdir()) == [REVISION, f"{REVISION}.json"]
    assert "1 removed" in done.stdout
