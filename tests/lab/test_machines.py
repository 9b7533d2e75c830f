"""What the lab promises of its machines, on a small lab with a name and a subnet of its own."""

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import yaml

from tests.lab.conftest import PROJECT
from vllm_ansible import lab
from vllm_ansible.lab import machine, network
from vllm_ansible.lab.system import kill, mounts, processes

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root"),
]
NAME = "selftest"
SUBNET = "10.97.55.0/24"
STATE = Path("/var/lib/vllm-lab") / NAME
FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


def run(*words, check=True):
    return subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=check)


def quiet(text):
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def inventory(tmp_path_factory):
    """An inventory with two machines; the first has a seed and a directory of this computer."""
    place = tmp_path_factory.mktemp("selftest")
    seed, shared = place / "seed", place / "shared"
    (seed / "etc/lab-seed").mkdir(parents=True)
    (seed / "etc/lab-seed/word").write_text("one")
    shared.mkdir()
    (shared / "word").write_text("from outside")
    one = {"lab_seed": str(seed), "lab_binds": [f"{shared}:/srv/shared"]}
    hosts = {
        "one": {"lab_address": "10.97.55.11", **one},
        "two": {"lab_address": "10.97.55.12"},
    }
    shared_words = {"lab_name": NAME, "lab_subnet": SUBNET, "lab_memory_mib": 512}
    connection = PROJECT / "inventories/lab/group_vars/lab_machines/connection.yml"
    words = {**yaml.safe_load(connection.read_text()), **shared_words, "lab_disk_mib": 2048}
    path = place / "hosts.yml"
    group = {"lab_machines": {"hosts": hosts, "vars": words}}
    path.write_text(yaml.safe_dump({"all": {"children": group}}))
    return path


@pytest.fixture(scope="module")
def spec(inventory):
    found = lab.LabSpec.from_inventory(inventory)
    lab.down(found, quiet)
    yield found
    lab.down(found, quiet)


@pytest.fixture
def booted(spec):
    lab.up(spec, quiet)
    return spec


def ssh(inventory, host, *words):
    return run("./scripts/lab", "ssh", "-i", str(inventory), host, "--", *words, check=False)


def left_behind():
    """Everything on this computer that carries the lab's name."""
    found = [f"interface {link['ifname']}" for link in network.ip("link", "show")]
    found = [link for link in found if NAME in link]
    found += [f"mount {point}" for point, _, _ in mounts() if NAME in str(point)]
    found += [f"process {one.argv}" for one in processes() if str(STATE) in " ".join(one.argv)]
    found += [line for line in run("nft", "list", "tables").stdout.splitlines() if NAME in line]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/vllm-lab-{NAME}-*")]
    return found + ([str(STATE)] if STATE.exists() else [])


def test_a_machine_is_a_real_one(booted, inventory):
    assert ssh(inventory, "one", "cat", "/proc/1/comm").stdout.strip() == "systemd"
    assert ssh(inventory, "one", "systemctl", "is-system-running").stdout.strip() == "running"
    assert ssh(inventory, "one", "hostname").stdout.strip() == "one"
    assert ssh(inventory, "one", "getent", "hosts", "two").stdout.split()[0] == "10.97.55.12"


def test_machines_share_no_identity(booted, inventory):
    for path in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"):
        first, second = (ssh(inventory, host, "cat", path).stdout for host in ("one", "two"))
        assert first
        assert first != second


def test_seed_and_directories_are_there(booted, inventory):
    assert ssh(inventory, "one", "cat", "/etc/lab-seed/word").stdout == "one"
    assert ssh(inventory, "one", "cat", "/srv/shared/word").stdout == "from outside"
    assert ssh(inventory, "one", "touch", "/srv/shared/new").returncode != 0


def test_apt_and_pip_work_inside(booted, inventory):
    script = (
        "apt-get -qq update && apt-get -qq -y install python3-venv >/dev/null 2>&1 && "
        "python3 -m venv /root/v && /root/v/bin/pip -q download -d /root/d --no-deps six"
    )
    done = ssh(inventory, "two", script)
    assert done.returncode == 0, done.stderr


def test_words_of_a_command_stay_apart(booted, inventory):
    assert ssh(inventory, "one", "printf", "%s\\n", "a b", "c").stdout == "a b\nc\n"
    assert ssh(inventory, "one", "exit 7").returncode == 7


def test_a_second_up_changes_nothing(booted):
    report = lab.up(booted, quiet)
    assert not report.changed


def test_two_ups_at_once_do_not_meet(spec, inventory):
    lab.down(spec, quiet)
    command = ["./scripts/lab", "boot", "-i", str(inventory)]
    both = [subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE) for _ in range(2)]
    assert [one.wait(120) for one in both] == [0, 0]
    found = machine.running(spec.state)
    assert {name: one.complete for name, one in found.items()} == {"one": True, "two": True}


def kill_manager(spec):
    kill(machine.running(spec.state)["one"].nspawns)


def kill_keeper(spec):
    kill(machine.running(spec.state)["one"].keepers)


def kill_ssh_server(spec):
    """Nothing that a look at processes, mounts or interfaces would tell."""
    leader = machine.running(spec.state)["one"].leader
    assert leader
    run("nsenter", "-t", str(leader.pid), "-a", "systemctl", "stop", "ssh.service")


def remove_bridge(spec):
    run("ip", "link", "delete", spec.bridge)


def remove_address(spec):
    run("ip", "address", "flush", "dev", spec.bridge)


def remove_firewall(spec):
    run("nft", "delete", "table", "inet", spec.table)


def empty_firewall(spec):
    run("nft", "flush", "table", "inet", spec.table)


def unmount(spec):
    run("umount", str(spec.state / "machines/one/root"))


def end_forwarding(_spec):
    FORWARD.write_text("0")


def lose_known_hosts(spec):
    spec.known_hosts.unlink()


def write_stale_record(spec):
    (spec.state / "lab.json").write_text("{")


def cut_power(spec):
    """What a reboot of this computer leaves: the files, and nothing in the kernel."""
    for one in machine.running(spec.state).values():
        kill([*one.keepers, *one.nspawns, *one.inside])
    for name in ("one", "two"):
        machine.release(spec.state / "machines" / name, f"{NAME}-{name}")
    network.remove(spec)


@pytest.mark.parametrize(
    "damage",
    [
        kill_manager,
        kill_keeper,
        kill_ssh_server,
        remove_bridge,
        remove_address,
        remove_firewall,
        empty_firewall,
        unmount,
        end_forwarding,
        lose_known_hosts,
        write_stale_record,
        cut_power,
    ],
)
def test_up_repairs_and_keeps_the_disk(booted, inventory, damage):
    mark = f"{damage.__name__} {time.time()}"
    assert ssh(inventory, "one", f"echo '{mark}' >/root/mark; sync").returncode == 0
    damage(booted)
    report = lab.up(booted, quiet)
    assert {one.state for one in report.machines} == {"running"}
    assert ssh(inventory, "one", "cat", "/root/mark").stdout.strip() == mark
    reach = "timeout 60 bash -c '</dev/tcp/two/22' && apt-get -qq update"
    assert ssh(inventory, "one", reach).returncode == 0
    assert lab.status(booted).is_up


def test_a_machine_that_reboots_comes_back_by_itself(booted, inventory):
    begun = machine.running(booted.state)["one"].leader
    assert begun
    ssh(inventory, "one", "reboot")
    deadline = time.monotonic() + 120
    while begun.alive() or ssh(inventory, "one", "true").returncode != 0:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert not lab.up(booted, quiet).changed


def test_a_changed_seed_reaches_the_machine(booted, inventory):
    word = booted.machine("one").seed / "etc/lab-seed/word"
    word.write_text("two")
    report = lab.up(booted, quiet)
    assert any("seed" in change for change in report.changes)
    assert ssh(inventory, "one", "cat", "/etc/lab-seed/word").stdout == "two"


def test_a_failed_unit_is_told(booted, inventory):
    ssh(inventory, "two", "systemd-run -q --unit=broken false; sleep 0.5")
    report = lab.up(booted, quiet)
    assert "broken.service" in report.notices[0]
    ssh(inventory, "two", "systemctl", "reset-failed")


def test_status_as_json(booted, inventory):
    found = json.loads(run("./scripts/lab", "status", "--json", "-i", str(inventory)).stdout)
    assert found["up"]
    assert {one["name"]: one["state"] for one in found["machines"]} == {
        "one": "running",
        "two": "running",
    }


def play(inventory, *words):
    return run("ansible-playbook", "-i", str(inventory), *words, check=False)


def test_the_first_play_boots_what_is_not_running(spec, inventory):
    lab.down(spec, quiet)
    done = play(inventory, "playbooks/lab.yml", "--check")
    assert done.returncode == 0, done.stdout
    assert lab.status(spec).is_up
    again = play(inventory, "playbooks/lab.yml")
    assert "changed=0" in again.stdout
    reached = run("ansible", "-i", str(inventory), "lab_machines", "-m", "ansible.builtin.ping")
    assert reached.stdout.count("pong") == 2


def test_molecules_destroy_removes_everything(booted, inventory):
    assert "changed=1" in play(inventory, "molecule/shared/destroy.yml").stdout
    assert left_behind() == []
    assert "changed=0" in play(inventory, "molecule/shared/destroy.yml").stdout


def test_down_leaves_nothing(spec, inventory):
    forwarding = FORWARD.read_text()
    lab.up(spec, quiet)
    run("ansible", "-i", str(inventory), "lab_machines", "-m", "ansible.builtin.ping")
    assert lab.down(spec, quiet).changed
    assert left_behind() == []
    assert FORWARD.read_text() == forwarding
    assert not lab.down(spec, quiet).changed


@pytest.mark.parametrize("damage", [kill_manager, kill_keeper, remove_bridge, unmount, cut_power])
def test_down_clears_half_a_lab_away(booted, damage):
    damage(booted)
    lab.down(booted, quiet)
    assert left_behind() == []


def test_down_of_one_machine_leaves_the_other(booted, inventory):
    lab.down(booted, quiet, ["one"])
    assert ssh(inventory, "two", "true").returncode == 0
    states = {one.name: one.state for one in lab.status(booted).machines}
    assert states == {"one": "absent", "two": "running"}


def test_a_firewall_that_drops_by_default_is_passed_and_left_as_it_was(spec, inventory):
    """Docker and ufw set such a policy; an accept in the lab's own table would not help."""
    lab.down(spec, quiet)
    chain = "chain ip selftest_drop forward { type filter hook forward priority 0; policy drop; }"
    run("nft", f"add table ip selftest_drop; add {chain}")
    try:
        before = run("nft", "list", "table", "ip", "selftest_drop").stdout
        lab.up(spec, quiet)
        assert not lab.up(spec, quiet).changed
        assert ssh(inventory, "two", "apt-get", "-qq", "update").returncode == 0
        lab.down(spec, quiet)
        assert run("nft", "list", "table", "ip", "selftest_drop").stdout == before
    finally:
        run("nft", "delete", "table", "ip", "selftest_drop")


def test_two_labs_stand_side_by_side(booted):
    address = IPv4Address("10.97.57.11")
    words = {"name": "selftest2", "subnet": IPv4Network("10.97.57.0/24")}
    other = replace(booted, **words, machines=(lab.MachineSpec("one", address),))
    try:
        lab.up(other, quiet)
        assert lab.status(booted).is_up
        lab.down(booted, quiet)
        assert lab.status(other).is_up
        assert FORWARD.read_text().strip() == "1"
    finally:
        lab.down(other, quiet)
    assert left_behind() == []


def test_an_interrupted_up_can_be_gone_on_with(spec, inventory):
    lab.down(spec, quiet)
    begun = subprocess.Popen(["./scripts/lab", "boot", "-i", str(inventory)], cwd=PROJECT)
    while not list(STATE.glob("machines/*/console.log")):
        time.sleep(0.01)
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    assert {one.state for one in lab.up(spec, quiet).machines} == {"running"}


def test_debian_13_by_a_variable(spec, inventory, monkeypatch):
    lab.down(spec, quiet)
    monkeypatch.setenv("VLLM_LAB_SUITE", "trixie")
    newer = lab.LabSpec.from_inventory(inventory)
    lab.up(newer, quiet, ["two"])
    assert "VERSION_CODENAME=trixie" in ssh(inventory, "two", "cat", "/etc/os-release").stdout
    lab.down(newer, quiet)
