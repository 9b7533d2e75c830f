"""Inventories are read with Ansible's own classes: templates, vaults, groups, extra variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

from vllm_ansible import paths
from vllm_ansible.inventory import Inventory, InventoryError, read_inventory

SECRET = "hunter2hunter2hunter2"  # noqa: S105  # what must never be shown
PASSWORD = "password-of-the-test"  # noqa: S105  # of a vault that exists for one test
INSTANCES = "vllm_instances: [{name: a, model: qwen2.5-0.5b-instruct}]\n"


@pytest.fixture
def inventory(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    (tmp_path / "inv" / "group_vars").mkdir(parents=True)
    (tmp_path / "inv" / "hosts.yml").write_text("vllm: {hosts: {one: {}, two: {}}}\n", "utf-8")
    (tmp_path / "password").write_text(PASSWORD, "utf-8")
    return tmp_path / "inv"


def write(inventory: Path, text: str, name: str = "vllm") -> None:
    (inventory / "group_vars" / f"{name}.yml").write_text(text, "utf-8")


def vaulted(text: str) -> str:
    secret = VaultSecret(PASSWORD.encode())
    return str(VaultLib([("default", secret)]).encrypt(text, secret).decode())


def tagged(text: str) -> str:
    return "!vault |\n" + "".join(f"    {line}\n" for line in vaulted(text).splitlines())


def opened(inventory: Path) -> Inventory:
    return read_inventory(inventory, vault_password_file=inventory.parent / "password")


def problems(inventory: Path, *, opened: bool = True, host: int = 0) -> list[str]:
    password = inventory.parent / "password" if opened else None
    words = read_inventory(inventory, vault_password_file=password).hosts[host]
    return [str(problem) for problem in words.check().problems]


def test_templates_are_resolved_in_the_host_s_own_variables(inventory):
    text = INSTANCES + 'address: 192.0.2.7\nvllm_gateway: {listen: ["{{ address }}"]}\n'
    write(inventory, text)
    words = read_inventory(inventory).hosts[0].check().words
    assert words is not None
    assert words.gateway.listen == ["192.0.2.7"]


def test_an_undefined_variable_is_named_with_its_place(inventory):
    write(inventory, INSTANCES + 'vllm_gateway: {listen: ["127.0.0.1", "{{ adress }}"]}\n')
    (line,) = problems(inventory)
    assert line.startswith("one: vllm_gateway.listen[1]: given '{{ adress }}'")
    assert "'adress' is undefined" in line


@pytest.mark.parametrize("opened", [True, False])
def test_a_vaulted_key_is_accepted_with_and_without_the_password(inventory, opened):
    write(inventory, INSTANCES + f"vllm_gateway:\n  api_key: {tagged(SECRET)}")
    assert problems(inventory, opened=opened) == []


@pytest.mark.parametrize("filtered", ["vault_key", "vault_key | trim"])
def test_a_reference_to_a_vaulted_key_is_accepted(inventory, filtered):
    write(inventory, f"{INSTANCES}vault_key: {tagged(SECRET)}")
    write(inventory, f"vllm_gateway: {{api_key: '{{{{ {filtered} }}}}'}}\n", "all")
    assert problems(inventory) == []
    assert problems(inventory, opened=False) == []


def test_a_key_in_a_vaulted_file_is_accepted(inventory):
    write(inventory, vaulted(f"{INSTANCES}vllm_gateway: {{api_key: {SECRET}}}\n"))
    assert problems(inventory) == []


def test_a_vaulted_file_without_the_password_says_so(inventory):
    write(inventory, vaulted(INSTANCES))
    (line,) = problems(inventory, opened=False)
    assert "vault" in line.lower()


@pytest.mark.parametrize("key", [SECRET, "{{ my_key }}"])
def test_a_key_in_clear_text_is_refused_and_not_repeated(inventory, key):
    write(inventory, f"{INSTANCES}my_key: {SECRET}\nvllm_gateway: {{api_key: '{key}'}}\n")
    (line,) = problems(inventory)
    assert "a secret in clear text" in line
    assert SECRET not in line


def test_a_new_key_has_a_new_fingerprint_that_does_not_tell_it(inventory):
    write(inventory, INSTANCES + f"vllm_gateway:\n  api_key: {tagged(SECRET)}")
    first = (
        read_inventory(inventory, None, inventory.parent / "password").hosts[0].key_fingerprint()
    )
    write(inventory, INSTANCES + f"vllm_gateway:\n  api_key: {tagged(SECRET + '2')}")
    second = (
        read_inventory(inventory, None, inventory.parent / "password").hosts[0].key_fingerprint()
    )
    assert first != second
    assert SECRET not in f"{first}{second}"


@pytest.mark.parametrize(
    ("hosts", "says"),
    [
        ("all: {hosts: {one: {}}}\n", "no host in the group vllm"),
        ("", "no host in the group vllm"),
    ],
)
def test_an_inventory_without_servers_is_refused(inventory, hosts, says):
    (inventory / "hosts.yml").write_text(hosts, "utf-8")
    with pytest.raises(InventoryError, match=says):
        read_inventory(inventory)


def test_an_inventory_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InventoryError, match="does not exist"):
        read_inventory(tmp_path / "nowhere")


def test_a_limit_that_names_nobody_is_refused(inventory):
    write(inventory, INSTANCES)
    assert [words.host for words in read_inventory(inventory, "two").hosts] == ["two"]
    with pytest.raises(InventoryError, match="--limit three"):
        read_inventory(inventory, "three")


@pytest.mark.parametrize("name", ["example", "lab", "lab-source"])
def test_the_inventories_that_come_with_the_project_are_right(name):
    # An archive that docs/source-build.md has its readers put there.
    theirs = ("vllm_sources.onednn.archive", "a readable file on the controller")
    for words in read_inventory(paths.PROJECT / "inventories" / name).hosts:
        found = words.check().problems
        assert [one for one in found if (one.variable, one.allowed) != theirs] == []


def test_the_lab_can_be_planned_before_it_was_ever_booted(inventory):
    lab = (paths.PROJECT / "inventories/lab/group_vars/vllm.yml").read_text()
    nowhere = lab.replace("/var/cache/vllm-lab/origin/manifest.json", "/nowhere")
    (inventory / "group_vars" / "vllm.yml").write_text(nowhere)
    write(inventory, "lab_address: 192.0.2.2\n", "all")
    (inventory / "hosts.yml").write_text(
        "all: {children: {vllm: {hosts: {one: {}}}, lab_origin: {hosts: {origin: {}}}}}\n", "utf-8"
    )
    words = read_inventory(inventory).hosts[0].check().words
    assert words is not None
    assert words.models["smollm2-135m-instruct"].revision == "0" * 40


def play(inventory: Path, tasks: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a playbook made of tasks on every server, with the project's action plugins."""
    book = inventory.parent / "play.yml"
    book.write_text(tasks, "utf-8")
    command = ["ansible-playbook", "-i", str(inventory), str(book), *arguments]
    command += ["-e", f"ansible_python_interpreter={sys.executable}"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(paths.PROJECT / "ansible.cfg")}
    environment["VLLM_ANSIBLE_CACHE"] = str(inventory.parent / "cache")
    environment["ANSIBLE_STDOUT_CALLBACK"] = "ansible.builtin.default"
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=paths.PROJECT, check=False
    )


VALIDATE = "- {hosts: localhost, gather_facts: false, tasks: [{validate_inventory: }]}\n"


def test_validate_tells_every_error_of_every_host(inventory):
    write(inventory, INSTANCES + f"vllm_gateway: {{api_key: {SECRET}}}\n")
    done = play(inventory, VALIDATE, "-e", '{"vllm_engine": {"version": "0.7"}}')
    assert done.returncode != 0
    assert "4 errors in the inventory; no host was touched." in done.stdout + done.stderr
    for host in ("one", "two"):
        for variable in ("vllm_engine.version", "vllm_gateway.api_key"):
            assert f"{host}: {variable}: given" in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_validate_passes_a_right_inventory_and_refuses_an_empty_one(inventory):
    write(inventory, INSTANCES)
    assert play(inventory, VALIDATE).returncode == 0
    (inventory / "hosts.yml").write_text("all: {hosts: {one: {}}}\n", "utf-8")
    done = play(inventory, VALIDATE)
    assert done.returncode != 0
    assert "no host in the group vllm" in done.stdout + done.stderr


def test_host_plan_gives_the_plan_and_keeps_secrets_out_of_the_output(inventory):
    environment = f"{{env: {{HF_TOKEN: '{{{{ vault_token }}}}'}}, name: a, model: {'m'}}}"
    model = {"revision": "a" * 40, "sources": [{"kind": "git-lfs", "url": "https://h/m.git"}]}
    text = f"vllm_instances: [{environment}]\nvault_token: {tagged(SECRET)}"
    write(inventory, text)
    write(inventory, yaml.safe_dump({"vllm_models": {"m": model}}), "all")
    facts: dict[str, Any] = {"cores": 2, "memory_mib": 16000, "cpu_flags": ["avx2", "avx512f"]}
    out = inventory.parent / "plan.json"
    tasks = [
        {"host_plan": {"facts": facts}, "register": "planned"},
        {"copy": {"content": "{{ planned.plan | to_json }}", "dest": str(out)}, "no_log": True},
    ]
    book = [{"hosts": "one", "connection": "local", "gather_facts": False, "tasks": tasks}]
    password = ["--vault-password-file", str(inventory.parent / "password")]
    done = play(inventory, yaml.safe_dump(book), "-vv", *password)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    plan = json.loads(out.read_text("utf-8"))
    assert plan["instances"][0]["environment"]["HF_TOKEN"] == SECRET
    assert SECRET not in json.dumps([plan["receipt"], plan["reasons"], plan["notices"]])


def test_host_plan_refuses_a_host_that_is_too_small(inventory):
    write(inventory, INSTANCES)
    task = {"host_plan": {"facts": {"cores": 1, "memory_mib": 512, "cpu_flags": ["avx2"]}}}
    book = [{"hosts": "one", "connection": "local", "gather_facts": False, "tasks": [task]}]
    done = play(inventory, yaml.safe_dump(book))
    assert done.returncode != 0
    assert "memory is short" in done.stdout + done.stderr
    assert "the host has 512 MiB" in done.stdout + done.stderr
