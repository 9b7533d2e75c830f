"""Up, down, status: what people and Ansible ask of a lab."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from vllm_ansible.lab import image, kernel, machine, network, preflight, ssh
from vllm_ansible.lab.errors import LabError, PreflightError
from vllm_ansible.lab.lock import locked
from vllm_ansible.lab.machine import Machine, Running
from vllm_ansible.lab.report import LabReport, MachineReport
from vllm_ansible.lab.spec import CACHE_ROOT, STATE_ROOT, LabSpec, MachineSpec
from vllm_ansible.lab.system import Progress, mounts, remove_tree
from vllm_ansible.paths import PROJECT

_BOOT_SECONDS = 120.0
# A machine that ran before us and is well answers at once; one that booted just now, soon.
_ANSWER_SECONDS = 15.0
_SECOND_LOOK = 0.5  # seconds after the first


def up(spec: LabSpec, progress: Progress, limit: Iterable[str] = ()) -> LabReport:
    """Boot a lab, or repair what is broken of it; machines keep their disks.

    Args:
        spec: The lab.
        progress: Told what is going on, a line at a time.
        limit: Names of the machines wanted; empty means all.

    Returns:
        What was done and how the machines are; all of them answer by SSH.

    Raises:
        LabError: Of preflight, before anything was made, or of the step that failed.
    """
    begun = time.monotonic()
    wanted = _chosen(spec, limit)
    if preflight.basics():
        # Without root the lock cannot be had; what else is wrong is told all the same.
        preflight.check(spec, progress, running=False)
    with locked(progress):
        found = machine.running(spec.state)
        preflight.check(spec, progress, running=any(entry.leader for entry in found.values()))
        work = _Up(spec, progress, found)
        work.images(wanted)
        work.origin()
        work.network()
        work.machines(wanted)
        reports = work.wait(wanted)
    return LabReport(
        spec.name,
        reports,
        tuple(work.changes),
        tuple(work.notices),
        time.monotonic() - begun,
        dict.fromkeys(("bridge", "firewall"), True),
    )


def down(spec: LabSpec, progress: Progress, limit: Iterable[str] = ()) -> LabReport:
    """Remove a lab with everything that belongs to it; half a lab, or none, is no error.

    Args:
        spec: The lab.
        progress: Told what is going on.
        limit: Only these machines are removed, the network stays; empty means everything.

    Returns:
        What was removed.

    Raises:
        LabError: No root, or something does not go away.
    """
    begun = time.monotonic()
    if problems := preflight.basics():
        raise PreflightError(problems)
    with locked(progress):
        names = [one.spec.name for one in _chosen(spec, limit)] if limit else None
        changes = _remove_machines(spec, progress, names)
        if names is None:
            changes += _remove_rest(spec, progress)
    return LabReport(spec.name, changes=tuple(changes), seconds=time.monotonic() - begun)


def status(spec: LabSpec) -> LabReport:
    """Look at a lab without touching it.

    Raises:
        PreflightError: No root: the lab's state is root's.
    """
    begun = time.monotonic()
    if problems := preflight.basics():
        raise PreflightError(problems)
    reports = _look_at_all(spec)
    if any(one.state == "broken" for one in reports):
        # Seen once of a machine that was well, why is not known: what is broken is so twice.
        time.sleep(_SECOND_LOOK)
        reports = _look_at_all(spec)
    whole = network.state(spec)
    return LabReport(spec.name, reports, seconds=time.monotonic() - begun, network=whole)


def purge(progress: Progress) -> list[str]:
    """Remove the cached images and the cached origin.

    Returns:
        What was removed.

    Raises:
        LabError: A lab still uses them.
    """
    if problems := preflight.basics():
        raise PreflightError(problems)
    with locked(progress):
        labs = _labs()
        if labs:
            raise LabError(
                f"the lab {', '.join(labs)} stands on these images; remove it first "
                "(scripts/lab down, molecule destroy)"
            )
        return [str(CACHE_ROOT)] if remove_tree(CACHE_ROOT) else []


def _labs() -> list[str]:
    """Name the labs that stand on this computer."""
    return sorted(path.parent.name for path in STATE_ROOT.glob("*/machines"))


def _chosen(spec: LabSpec, limit: Iterable[str]) -> list[Machine]:
    names = list(limit)
    chosen = [spec.machine(name) for name in names] if names else list(spec.machines)
    return [Machine(spec, one) for one in chosen]


def _look_at_all(spec: LabSpec) -> tuple[MachineReport, ...]:
    found = machine.running(spec.state)
    with ThreadPoolExecutor(max_workers=16) as pool:
        return tuple(
            pool.map(lambda one: _look(one, found.get(one.spec.name, Running())), _chosen(spec, ()))
        )


def _look(one: Machine, found: Running) -> MachineReport:
    ready = ssh.ask(one, timeout=5.0) if found.leader and one.lab.known_hosts.exists() else None
    if not found.any:
        state = "stopped" if one.home.exists() else "absent"
    elif not found.complete or not machine.is_mounted(one):
        state = "broken"
    else:
        state = ready.state if ready else "starting"
    failed = ready.failed if ready else ()
    address = str(one.spec.address)
    return MachineReport(one.spec.name, address, state, failed, one.recorded("image"))


# -- up -------------------------------------------------------------------------------------


@dataclass
class _Up:
    """One run of ``up``: what is found, what is done, what is to be said."""

    spec: LabSpec
    progress: Progress
    found: dict[str, Running]
    changes: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    keepers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)

    def did(self, text: str) -> None:
        """Note a change and say it."""
        self.changes.append(text)
        self.progress(text)

    def images(self, wanted: list[Machine]) -> None:
        """See that each machine has an image; one that exists keeps the one it was made with."""
        for one in wanted:
            new = image.Image.of(self.spec, one.spec)
            has = one.recorded("image")
            if has is None or (has == new.name and not image.exists(has)):
                if image.ensure(new, self.progress):
                    self.changes.append(f"image {new.name} built")
            elif has != new.name:
                self.notices.append(
                    f"{one.spec.name} keeps the image {has} it was made with; the inventory now "
                    f"wants {new.name}: scripts/lab down, then up, makes it anew"
                )

    def origin(self) -> None:
        """Have the lab's small Internet built, if the lab has one."""
        if not self.spec.origin or not (PROJECT / "tests/origin/build.py").exists():
            return
        if str(PROJECT) not in sys.path:
            sys.path.insert(0, str(PROJECT))
        if importlib.util.find_spec("tests.origin.build") is None:
            raise LabError("tests.origin.build cannot be imported; is another package named tests?")
        from tests.origin.build import build  # noqa: PLC0415  # heavy; only a lab with an origin

        try:
            build(CACHE_ROOT / "origin", self.progress)
        except Exception as error:
            raise LabError(f"the lab's origin could not be built: {error}") from error

    def network(self) -> None:
        """See that state directory, SSH key and network are there."""
        STATE_ROOT.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.spec.state.mkdir(mode=0o700, exist_ok=True)
        (self.spec.state / "machines").mkdir(mode=0o755, exist_ok=True)
        words = {
            "name": self.spec.name,
            "subnet": str(self.spec.subnet),
            "machines": {one.name: str(one.address) for one in self.spec.machines},
        }
        _replace(self.spec.state / "lab.json", json.dumps(words, indent=2) + "\n")
        machine.make_key(self.spec.key, f"vllm-lab {self.spec.name}")
        for made in [*network.ensure(self.spec), *kernel.ensure()]:
            self.did(f"made {made}")

    def machines(self, wanted: list[Machine]) -> None:
        """Start the machines that do not run as they should."""
        todo = []
        for one in wanted:
            reason = self._reason(one)
            if reason is not None:
                self.did(f"{one.spec.name}: {reason}")
                todo.append(one)
        self._stop(todo)
        for one in todo:
            self._prepare(one)
        _write_known_hosts(self.spec)
        for one in todo:
            self._start(one)

    def _reason(self, one: Machine) -> str | None:
        """Say why a machine must be started; None when it runs as it should."""
        found = self.found.get(one.spec.name, Running())
        if not found.any:
            return "made" if one.recorded("image") is None else "started again, with its disk"
        if not found.complete or found.leader is None:
            return "repaired: a process of it was gone"
        if not machine.is_mounted(one):
            return "repaired: its disk was not mounted"
        if one.recorded("started") != one.wanted():
            return "restarted: its address, seed or directories have changed"
        plugged = network.attach(self.spec, found.leader.pid)
        if plugged is None:
            return "repaired: its network interface was gone"
        if plugged:
            self.did(f"{one.spec.name}: plugged into the bridge again")
        machine.write_files(one, _host_lines(self.spec))
        return None

    def _stop(self, todo: list[Machine]) -> None:
        stale = [self.found[one.spec.name] for one in todo if one.spec.name in self.found]
        with ThreadPoolExecutor(max_workers=16) as pool:
            list(pool.map(machine.stop, stale))
        if todo:
            # A connection to a machine that ended would hang the next Ansible run.
            ssh.close_shared(self.spec)
        for one in todo:
            machine.release(one.home, one.full_name)

    def _prepare(self, one: Machine) -> None:
        machine.mount(one)
        machine.copy_seed(one)
        machine.write_files(one, _host_lines(self.spec))
        for bind in one.spec.binds:
            if not bind.source.exists():
                bind.source.mkdir(mode=0o755, parents=True)

    def _start(self, one: Machine) -> None:
        self.started[one.spec.name] = time.monotonic()
        self.keepers[one.spec.name] = machine.start(one)

    def wait(self, wanted: list[Machine]) -> tuple[MachineReport, ...]:
        """Wait until all machines answer."""
        with ThreadPoolExecutor(max_workers=16) as pool:
            return tuple(pool.map(self._wait_one, wanted))

    def _wait_one(self, one: Machine) -> MachineReport:
        name = one.spec.name
        keeper = self.keepers.get(name)
        ready = ssh.wait_ready(one, _BOOT_SECONDS if keeper else _ANSWER_SECONDS, keeper)
        if ready is None and keeper is None:
            self.did(f"{name}: restarted: it did not answer by SSH for {_ANSWER_SECONDS:.0f} s")
            machine.stop(machine.running(self.spec.state).get(name, Running()))
            machine.release(one.home, one.full_name)
            self._prepare(one)
            self._start(one)
            ready = ssh.wait_ready(one, _BOOT_SECONDS, self.keepers[name])
        if ready is None:
            raise LabError(
                f"{name} ({one.spec.address}) does not answer by SSH after {_BOOT_SECONDS:.0f} s; "
                f"{one.console} has its console: {ssh.console_tail(one)}"
            )
        begun = self.started.get(name)
        seconds = None if begun is None else time.monotonic() - begun
        if seconds is not None:
            self.progress(f"{name}: answers at {one.spec.address} after {seconds:.1f} s")
        if ready.failed:
            self.notices.append(f"{name} is degraded: failed units {', '.join(ready.failed)}")
        address, recorded = str(one.spec.address), one.recorded("image")
        return MachineReport(name, address, ready.state, ready.failed, recorded, seconds)


def _host_lines(spec: LabSpec) -> str:
    return "".join(f"{one.address} {one.name}\n" for one in spec.machines)


def _write_known_hosts(spec: LabSpec) -> None:
    """Take the machines' host keys from their disks, so that none is trusted unseen."""
    lines = []
    for one in spec.machines:
        public = Machine(spec, one).root / "etc/ssh/ssh_host_ed25519_key.pub"
        with contextlib.suppress(OSError):
            kind, key = public.read_text(encoding="utf-8").split()[:2]
            lines.append(f"{one.address},{one.name} {kind} {key}\n")
    _replace(spec.known_hosts, "".join(lines))


def _replace(path: Path, text: str) -> None:
    """Write a file in one step: an interruption leaves the old one."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.chmod(0o600)
    new.replace(path)


# -- down -----------------------------------------------------------------------------------


def _remove_machines(spec: LabSpec, progress: Progress, names: list[str] | None) -> list[str]:
    """Remove machines: those named, or all that the kernel or the disk knows of."""
    found = machine.running(spec.state)
    ssh.close_shared(spec)
    if names is None:
        homes = {path.name for path in (spec.state / "machines").glob("*")}
        names = sorted(homes | set(found))
    there = [name for name in names if name in found]
    if there:
        progress(f"powering off {', '.join(there)}")
    with ThreadPoolExecutor(max_workers=16) as pool:
        list(pool.map(lambda name: machine.stop(found[name]), there))
    changes = []
    for name in names:
        # The address does not matter here; the inventory may not know this machine any more.
        one = Machine(spec, MachineSpec(name, IPv4Address(0)))
        unmounted = machine.release(one.home, one.full_name)
        if remove_tree(one.home) or unmounted or name in there:
            changes.append(f"machine {name}")
    return changes


def _remove_rest(spec: LabSpec, progress: Progress) -> list[str]:
    """Remove network and state directory."""
    changes = network.remove(spec)
    if remove_tree(spec.state):
        changes.append(str(spec.state))
    changes += kernel.restore(_labs())
    with contextlib.suppress(OSError):
        STATE_ROOT.rmdir()
    left = [str(point) for point, _, _ in mounts() if spec.state in point.parents]
    if left:
        raise LabError(f"still mounted: {', '.join(left)}; unmount them and run down again")
    if changes:
        progress(f"removed {', '.join(changes)}")
    return changes
