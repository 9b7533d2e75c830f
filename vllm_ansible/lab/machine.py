"""One machine: its disk, its files, its processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from vllm_ansible.lab import image, resolver
from vllm_ansible.lab.certificates import extra_certificates
from vllm_ansible.lab.errors import LabError
from vllm_ansible.lab.spec import LabSpec, MachineSpec
from vllm_ansible.lab.system import (
    Process,
    kill,
    mounts,
    parent_of,
    processes,
    run,
    unmount_below,
    wait_gone,
)

_KEEPER = Path(__file__).with_name("keeper.sh")
# systemd(1): SIGRTMIN+4 powers the machine off.
_POWER_OFF = signal.SIGRTMIN + 4
_POWER_OFF_SECONDS = 15.0


@dataclass(frozen=True)
class Machine:
    """A machine of a lab and where its things are."""

    lab: LabSpec
    spec: MachineSpec

    @property
    def home(self) -> Path:
        """Directory of everything that belongs to this machine."""
        return self.lab.state / "machines" / self.spec.name

    @property
    def root(self) -> Path:
        """Mount point of the machine's root."""
        return self.home / "root"

    @property
    def console(self) -> Path:
        """What the machine and its keeper said."""
        return self.home / "console.log"

    @property
    def full_name(self) -> str:
        """The machine's name among all labs of this computer."""
        return f"{self.lab.name}-{self.spec.name}"

    def recorded(self, name: str) -> str | None:
        """Return what was recorded under a name when the machine was made or started."""
        try:
            return (self.home / name).read_text(encoding="utf-8").strip()
        except OSError:
            return None

    def wanted(self) -> str:
        """Return a digest of what a machine gets when it starts and keeps until it ends."""
        digest = hashlib.sha256()
        binds = [[str(bind.source), str(bind.target)] for bind in self.spec.binds]
        digest.update(json.dumps([str(self.spec.address), binds]).encode())
        for path, content in _seed_files(self.spec.seed):
            digest.update(f"{path}\0".encode())
            digest.update(content)
        return digest.hexdigest()


# -- what runs ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    """The processes of one machine.

    Attributes:
        keepers: Those that start it again after a reboot.
        nspawns: The container managers.
        leader: The machine's PID 1.
        inside: All processes in the machine, the leader among them.
    """

    keepers: tuple[Process, ...] = ()
    nspawns: tuple[Process, ...] = ()
    leader: Process | None = None
    inside: tuple[Process, ...] = ()

    @property
    def any(self) -> bool:
        """Whether anything of the machine runs."""
        return bool(self.keepers or self.nspawns or self.inside)

    @property
    def complete(self) -> bool:
        """Whether it runs as the lab started it."""
        return len(self.keepers) == 1 and len(self.nspawns) == 1 and self.leader is not None


def running(state: Path) -> dict[str, Running]:
    """Find the processes of a lab's machines in the kernel, whatever files say.

    Args:
        state: The lab's state directory.

    Returns:
        Machine's name to its processes; machines without any are left out.
    """
    keepers: dict[str, list[Process]] = {}
    nspawns: dict[str, list[Process]] = {}
    inside: dict[str, list[Process]] = {}
    prefix = f"--directory={state}/machines/"
    roots: dict[str, str | None] = {}
    for process in processes():
        word = next((word for word in process.argv if word.startswith(prefix)), None)
        if word is not None:
            kind = keepers if str(_KEEPER) in process.argv[:2] else nspawns
            kind.setdefault(word.removeprefix(prefix).split("/")[0], []).append(process)
        elif name := _machine_of(process.pid, state, roots):
            inside.setdefault(name, []).append(process)
    return {
        name: _sorted_out(keepers.get(name, []), nspawns.get(name, []), inside.get(name, []))
        for name in sorted({*keepers, *nspawns, *inside})
    }


def _sorted_out(keepers: list[Process], nspawns: list[Process], inside: list[Process]) -> Running:
    """Tell a program from its children that have not yet become what they shall be."""
    keepers, _ = _tops(keepers)
    nspawns, twins = _tops(nspawns)
    inside = [*inside, *twins]
    managers = {process.pid for process in nspawns}
    leader = next((process for process in inside if parent_of(process.pid) in managers), None)
    return Running(tuple(keepers), tuple(nspawns), leader, tuple(inside))


def _tops(found: list[Process]) -> tuple[list[Process], list[Process]]:
    """Split processes of one command line into those started as such and their fresh forks."""
    numbers = {process.pid for process in found}
    forks = [process for process in found if parent_of(process.pid) in numbers]
    return [process for process in found if process not in forks], forks


def _machine_of(pid: int, state: Path, roots: dict[str, str | None]) -> str | None:
    """Return the machine whose overlay is a process's root, once per mount namespace."""
    try:
        namespace = str(Path(f"/proc/{pid}/ns/mnt").readlink())
    except OSError:
        return None
    if namespace not in roots:
        roots[namespace] = None
        for point, kind, options in mounts(pid):
            if point != Path("/") or kind != "overlay":
                continue
            for option in options.split(","):
                prefix = f"upperdir={state}/machines/"
                if option.startswith(prefix):
                    roots[namespace] = option.removeprefix(prefix).split("/")[0]
    return roots[namespace]


def is_mounted(machine: Machine) -> bool:
    """Whether the machine's root is mounted."""
    return any(point == machine.root for point, _, _ in mounts())


# -- disk and files -------------------------------------------------------------------------


def mount(machine: Machine) -> None:
    """Put the machine's own layer over its image; what it wrote before is there again.

    Raises:
        LabError: The image of an older machine is gone, or the kernel refuses the mount.
    """
    wanted = image.Image.of(machine.lab, machine.spec).name
    name = machine.recorded("image") or wanted
    if not image.exists(name):
        raise LabError(
            f"{machine.spec.name}: its image {name} is gone and the inventory now wants {wanted}; "
            "its disk cannot be read without it: run scripts/lab down, then up"
        )
    for part in ("upper", "work", "root"):
        (machine.home / part).mkdir(mode=0o755, parents=True, exist_ok=True)
    (machine.home / "image").write_text(name + "\n", encoding="utf-8")
    upper, work = machine.home / "upper", machine.home / "work"
    layers = f"lowerdir={image.root_of(name)},upperdir={upper},workdir={work}"
    run("mount", "-t", "overlay", "vllm-lab", "-o", layers, machine.root)


def write_files(machine: Machine, host_lines: str) -> None:
    """Give the mounted root what makes it this machine.

    Args:
        machine: The machine; its root is mounted.
        host_lines: Lines of /etc/hosts for all machines of the lab.
    """
    lab, root = machine.lab, machine.root
    name, address = machine.spec.name, machine.spec.address
    nameservers = "".join(f"nameserver {server}\n" for server in resolver.servers(lab))
    _write(root / "etc/hostname", f"{name}\n")
    _write(root / "etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n{host_lines}")
    _write(root / "etc/resolv.conf", nameservers)
    # Before 80-container-host0.network, which would ask for an address by DHCP.
    _write(
        root / "etc/systemd/network/10-lab.network",
        f"[Match]\nName=host0\n\n[Network]\nAddress={address}/{lab.subnet.prefixlen}\n"
        f"Gateway={lab.gateway}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
    )
    identity = root / "etc/machine-id"
    if not identity.exists() or not identity.read_text(encoding="utf-8").strip():
        _write(identity, f"{uuid.uuid4().hex}\n")
    public = lab.key.with_suffix(".pub").read_text(encoding="utf-8")
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    _write(root / "root/.ssh/authorized_keys", public, 0o600)
    _write_certificates(machine)
    make_key(root / "etc/ssh/ssh_host_ed25519_key", f"root@{name}")


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file unless it is so already; a link is replaced, never followed."""
    if not path.is_symlink() and path.is_file() and path.read_text("utf-8") == text:
        return
    path.unlink(missing_ok=True)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def _write_certificates(machine: Machine) -> None:
    lower = image.root_of(machine.recorded("image") or "")
    extra = extra_certificates(lower)
    bundle = machine.root / "etc/ssl/certs/ca-certificates.crt"
    known = bundle.read_text(encoding="utf-8") if bundle.is_file() else ""
    for name, text in extra.items():
        _write(machine.root / "usr/local/share/ca-certificates" / name, text)
        if text not in known:
            known += text
    if extra:
        _write(bundle, known)


def make_key(path: Path, comment: str) -> None:
    """Make an SSH key pair unless it is there; a half-made one is made again."""
    public = path.with_name(path.name + ".pub")
    if path.is_file() and public.is_file() and public.read_text(encoding="utf-8").strip():
        return
    path.unlink(missing_ok=True)
    public.unlink(missing_ok=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path)


def _seed_files(seed: Path | None) -> list[tuple[Path, bytes]]:
    """Return path and content (or link's target) of each file of a seed tree, sorted."""
    if seed is None:
        return []
    found = []
    for path in sorted(seed.rglob("*")):
        if path.is_symlink():
            found.append((path, b"-> " + os.fsencode(path.readlink())))
        elif path.is_file():
            executable = b"x" if path.stat().st_mode & 0o100 else b"-"
            found.append((path, executable + path.read_bytes()))
    return found


def copy_seed(machine: Machine) -> None:
    """Copy the seed tree over the root; directories that are there keep their modes."""
    seed = machine.spec.seed
    for path, content in _seed_files(seed):
        target = machine.root / path.relative_to(seed or path)
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if path.is_symlink():
            target.symlink_to(path.readlink())
        else:
            target.write_bytes(content[1:])
            target.chmod(0o755 if content[:1] == b"x" else 0o644)


# -- starting and stopping ------------------------------------------------------------------


def start(machine: Machine) -> subprocess.Popen[bytes]:
    """Start the keeper of a machine whose root is mounted.

    Returns:
        The keeper; it lives on when this program ends.
    """
    under_systemd = Path("/run/systemd/system").is_dir()
    command = [
        "systemd-nspawn",
        "--quiet",
        f"--directory={machine.root}",
        f"--machine={machine.full_name}",
        "--boot",
        # Only a systemd that is this computer's PID 1 can register machines and make scopes.
        "--register=no",
        *([] if under_systemd else ["--keep-unit"]),
        f"--network-bridge={machine.lab.bridge}",
        "--resolv-conf=off",
        "--timezone=off",
        # The default leaves a link to the machine's journal in this computer's /var/log.
        "--link-journal=no",
        "--private-users=no",
        "--console=pipe",
        *(f"--bind-ro={bind.source}:{bind.target}" for bind in machine.spec.binds),
    ]
    groups = [] if under_systemd else cgroups(machine.full_name)
    (machine.home / "started").write_text(machine.wanted() + "\n", encoding="utf-8")
    with machine.console.open("wb") as console:
        return subprocess.Popen(
            ["/bin/sh", str(_KEEPER), *map(str, groups), "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            # A tenth of the memory is what nspawn would give /tmp; a server has its disk there.
            env=os.environ | {"SYSTEMD_NSPAWN_TMPFS_TMP": "0", "LC_ALL": "C.UTF-8"},
        )


def cgroups(full_name: str) -> list[Path]:
    """Return the directories of a machine's own cgroup, one per hierarchy that systemd uses."""
    return [
        point / f"vllm-lab-{full_name}"
        for point, kind, options in mounts()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(","))
    ]


def stop(found: Running) -> None:
    """Power a machine off; what does not end in time is killed.

    Args:
        found: The machine's processes.

    Raises:
        LabError: A process does not die.
    """
    for keeper in found.keepers:
        keeper.send(signal.SIGTERM)
    if found.leader:
        found.leader.send(_POWER_OFF)
        wait_gone([*found.keepers, *found.nspawns, *found.inside], _POWER_OFF_SECONDS)
    # Between two runs of a machine the keeper alone is there, and must not begin the next one.
    kill(found.keepers)
    kill([*found.nspawns, *found.inside])


def release(home: Path, full_name: str) -> bool:
    """Unmount a stopped machine's root and remove its cgroups.

    Args:
        home: The machine's directory.
        full_name: Its name among all labs.

    Returns:
        Whether there was anything mounted.
    """
    unmounted = bool(unmount_below(home / "root"))
    for top in cgroups(full_name):
        _remove_cgroup(top)
    with contextlib.suppress(OSError):
        Path(f"/run/systemd/nspawn/propagate/{full_name}").rmdir()
    return unmounted


def _remove_cgroup(top: Path, seconds: float = 5.0) -> None:
    """Remove a cgroup; what was killed a moment ago may still be leaving it."""
    deadline = time.monotonic() + seconds
    while top.is_dir() and time.monotonic() < deadline:
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError, ValueError):
                members = (Path(directory) / "cgroup.procs").read_text("ascii").split()
                # 0 stands for a process of another namespace; to kill() it is our own group.
                for pid in [int(member) for member in members if member != "0"]:
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        if top.is_dir():
            time.sleep(0.05)
