"""Runs the chain again on servers that are as they should be, and on servers that are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from vllm_ansible import lab
from vllm_ansible.bench.drifts import DRIFTS, Drift
from vllm_ansible.bench.rerun_report import DriftVerdict, Handled, Rerun, RerunReport, Rounds
from vllm_ansible.bench.site import names
from vllm_ansible.bench.state import State, differing, state_of
from vllm_ansible.lab import LabSpec, ssh
from vllm_ansible.lab.machine import Machine
from vllm_ansible.lab.system import Progress, run
from vllm_ansible.paths import PROJECT
from vllm_ansible.provisioning import ProvisionResult, TaskEvent, provision

STANDIN = PROJECT / "tests" / "standin"
_SHARED = ("lab_machines/connection.yml", "lab_origin.yml", "vllm/lab.yml", "vllm/standin.yml")
_ORIGIN, _FIRST = 2, 11
# What was changed by hand is kept there on purpose (docs/drift.md).
_SET_ASIDE = "/var/lib/vllm/set-aside"
# MiB of memory and of disk that must be free before a lab is begun.
_MEMORY_BASE, _MEMORY_EACH = 1024, 256
_DISK_BASE, _DISK_EACH = 2048, 768

Watch = Callable[[TaskEvent], None]


def write_inventory(folder: Path, name: str, subnet: IPv4Network, servers: int) -> Path:
    """Writes the stand-in's inventory for some servers in a lab of their own.

    Args:
        folder: Where the inventory's directory is made or changed.
        name: The lab's name.
        subnet: Its network.
        servers: How many servers it has.

    Returns:
        The inventory's directory.
    """
    inventory, origin = folder / name, STANDIN / "inventory" / "group_vars"
    variables = inventory / "group_vars"
    for path in _SHARED:
        link = variables / path
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to((origin / path).resolve())
    words = {
        "lab_name": name,
        "lab_subnet": str(subnet),
        "lab_suite": "bookworm",
        "lab_memory_mib": _MEMORY_BASE + servers * _MEMORY_EACH,
        "lab_disk_mib": _DISK_BASE + servers * _DISK_EACH,
    }
    groups = {
        "lab_origin": {"origin": {"lab_address": str(subnet[_ORIGIN])}},
        "vllm": {
            one: {"lab_address": str(subnet[_FIRST + n])} for n, one in enumerate(names(servers))
        },
    }
    children = {one: {"hosts": hosts} for one, hosts in groups.items()}
    machines = {"lab_machines": {"children": dict.fromkeys(groups)}}
    # JSON is YAML.
    (variables / "lab_machines/lab.yml").write_text(json.dumps(words), encoding="utf-8")
    text = json.dumps({"all": {"children": {**children, **machines}}}, indent=1)
    (inventory / "hosts.yml").write_text(text, encoding="utf-8")
    return inventory


def measure_rerun(
    servers: int, rounds: int, subnet: IPv4Network, folder: Path, progress: Progress, watch: Watch,
    *, drifts: Sequence[Drift] = DRIFTS, keep: bool = False,
) -> RerunReport:  # fmt: skip
    """Provisions one server and then several, and runs the chain again, both ways in turn.

    Args:
        servers: How many servers the larger site has.
        rounds: How often each way is run.
        subnet: The lab's network.
        folder: For inventories and logs.
        progress: Told what is going on.
        watch: Told each step of a run.
        drifts: What is changed by hand at the end, to see both ways find and mend it.
        keep: Leave the machines.

    Raises:
        LabError: The lab cannot be had; the message says why.
        ProvisionError: A run failed.
    """
    with _machines(folder, subnet, servers, progress, watch, keep=keep) as site:
        measured = [site.measure(count, rounds) for count in sorted({1, servers})]
        verdicts = site.verdicts(drifts)
    return RerunReport(rounds=measured, drifts=verdicts)


@contextmanager
def _machines(
    folder: Path, subnet: IPv4Network, servers: int, progress: Progress, watch: Watch, *, keep: bool
) -> Iterator[_Site]:
    """Removes the lab before and after."""
    spec = LabSpec.from_inventory(write_inventory(folder, "rerun", subnet, servers))
    lab.down(spec, progress)
    try:
        yield _Site(folder, subnet, progress, watch)
    finally:
        if not keep:
            lab.down(spec, progress)


@dataclass
class _Site:
    """The site, whose servers are made as they are asked for."""

    folder: Path
    subnet: IPv4Network
    progress: Progress
    watch: Watch
    servers: int = 0

    def measure(self, servers: int, rounds: int) -> Rounds:
        """Makes the servers and runs the chain again, on the fast path and without, in turn."""
        self.servers = servers
        inventory = write_inventory(self.folder, "rerun", self.subnet, servers)
        lab.up(LabSpec.from_inventory(inventory), self.progress)
        first = self._run(inventory, fast=True, log="first")
        self.progress(f"{servers} server(s): made in {first.seconds:.1f} s")
        fast, slow = [], []
        for number in range(rounds):
            fast.append(_figures(self._run(inventory, fast=True, log=f"fast-{number}")))
            slow.append(_figures(self._run(inventory, fast=False, log=f"long-{number}")))
            self.progress(
                f"{servers} server(s), round {number + 1}: fast {fast[-1].seconds:.1f} s and "
                f"{fast[-1].tasks} tasks, long {slow[-1].seconds:.1f} s and {slow[-1].tasks} tasks"
            )
        return Rounds(servers=servers, first=round(first.seconds, 1), fast=fast, long=slow)

    def verdicts(self, drifts: Sequence[Drift]) -> list[DriftVerdict]:
        """Each drift on a server of its own, as many at a time as there are servers."""
        found = []
        for start in range(0, len(drifts), self.servers):
            some = drifts[start : start + self.servers]
            fast, slow = self._handled(some, fast=True), self._handled(some, fast=False)
            found += [
                DriftVerdict(name=drift.name, fast=fast[n], long=slow[n])
                for n, drift in enumerate(some)
            ]
        return found

    def _handled(self, drifts: Sequence[Drift], *, fast: bool) -> list[Handled]:
        """Makes the drifts, runs the chain, and tells what it found and left of each."""
        inventory = write_inventory(self.folder, "rerun", self.subnet, self.servers)
        spec = LabSpec.from_inventory(inventory)
        hosts = names(len(drifts))
        machines = [Machine(spec, spec.machine(host)) for host in hosts]
        before = _states(machines)
        for machine, drift in zip(machines, drifts, strict=True):
            run(*ssh.command(machine), drift.script)
        result = self._run(inventory, fast=fast, log=f"drift-{drifts[0].name}-{fast}")
        after = _states(machines)
        return [
            Handled(
                found=[
                    {"kind": one["kind"], "subject": one["subject"]}
                    for one in result.hosts[host].differences
                ],
                changed=result.hosts[host].changed,
                left={
                    path: what
                    for path, what in differing(was, now).items()
                    if not path.startswith(_SET_ASIDE)
                },
            )
            for host, was, now in zip(hosts, before, after, strict=True)
        ]

    def _run(self, inventory: Path, *, fast: bool, log: str) -> ProvisionResult:
        """Runs the chain."""
        return provision(
            inventory,
            extra_vars={"vllm_fast_path": fast},
            env={"VLLM_ANSIBLE_LOCKS": str(STANDIN / "locks")},
            on_event=self.watch,
            log=self.folder / f"{self.servers}-{log.replace(' ', '-')}.log",
        )


def _states(machines: Sequence[Machine]) -> list[State]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(state_of, machines))


def _figures(result: ProvisionResult) -> Rerun:
    """The figures of a run."""
    stages = [stage for host in result.hosts.values() for stage in host.stages.values()]
    return Rerun(
        seconds=round(result.seconds, 2),
        tasks=sum(one.ok + one.changed for one in stages),
        changed=result.changed,
        stages=result.stages,
    )
