"""What a lab is: the inventory's words about it, checked, all problems at once."""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from pathlib import Path, PurePosixPath
from typing import Any

from vllm_ansible.lab.errors import LabError, LabWordsError
from vllm_ansible.paths import PROJECT

STATE_ROOT = Path("/var/lib/vllm-lab")
CACHE_ROOT = Path("/var/cache/vllm-lab")
SUITES = ("bookworm", "trixie")

_SHARED: dict[str, Any] = {
    "lab_name": None,
    "lab_subnet": None,
    "lab_suite": "bookworm",
    "lab_memory_mib": 4096,
    "lab_disk_mib": 15360,
    "lab_dns": [],
}
_PER_HOST = ("lab_address", "lab_packages", "lab_pip", "lab_seed", "lab_binds")
WORDS = (*_SHARED, *_PER_HOST)
# Words of the inventories themselves, about the origin, and of the role lab_machine.
_NOT_OURS = ("lab_machine", "lab_manifest", "lab_origin")
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]+")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][^\s;]*")
# An interface name has 15 characters; the bridge's is "vl-" and the lab's name.
_LAB_NAME_MAX = 12
_MACHINE_NAME_MAX = 64
_PREFIXES = range(16, 30)


@dataclass(frozen=True)
class Bind:
    """A directory of this computer that a machine sees, read-only."""

    source: Path
    target: PurePosixPath


@dataclass(frozen=True)
class MachineSpec:
    """One machine as the inventory describes it."""

    name: str
    address: IPv4Address
    packages: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    seed: Path | None = None
    binds: tuple[Bind, ...] = ()


@dataclass(frozen=True)
class LabSpec:
    """One lab: its machines and the network they share.

    Attributes:
        name: Names the bridge, the firewall table and the state directory.
        subnet: The machines' network; its first address is the bridge's.
        suite: Debian release of the machines.
        memory_mib: Free memory without which the lab is not begun, in MiB.
        disk_mib: Free disk without which the lab is not begun, in MiB.
        dns: Name servers of the machines; empty means those of this computer.
        origin: Whether one of the machines is the lab's small Internet.
    """

    name: str
    subnet: IPv4Network
    machines: tuple[MachineSpec, ...]
    suite: str = "bookworm"
    memory_mib: int = 4096
    disk_mib: int = 15360
    dns: tuple[IPv4Address, ...] = ()
    origin: bool = False

    @property
    def bridge(self) -> str:
        """Name of the bridge on this computer."""
        return f"vl-{self.name}"

    @property
    def gateway(self) -> IPv4Address:
        """The bridge's address, the machines' way out."""
        return self.subnet[1]

    @property
    def table(self) -> str:
        """Name of the nftables table (family inet)."""
        return f"vllm_{self.name.replace('-', '_')}"

    @property
    def state(self) -> Path:
        """Directory of everything that ``down`` removes."""
        return STATE_ROOT / self.name

    @property
    def key(self) -> Path:
        """The SSH key made for this lab."""
        return self.state / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The machines' SSH host keys."""
        return self.state / "known_hosts"

    def machine(self, name: str) -> MachineSpec:
        """Return the machine of that name.

        Raises:
            LabError: The lab has none; the message lists those it has.
        """
        for machine in self.machines:
            if machine.name == name:
                return machine
        known = ", ".join(machine.name for machine in self.machines)
        raise LabError(f"{name}: the lab {self.name} has no such machine; it has {known}")

    @classmethod
    def from_inventory(cls, path: Path) -> LabSpec:
        """Read the lab out of an inventory.

        Args:
            path: Inventory file or directory.

        Returns:
            The lab. ``VLLM_LAB_SUITE`` in the environment wins over the inventory's suite.

        Raises:
            LabError: The inventory cannot be read.
            LabWordsError: It has no lab machines, or says something wrong about them.
        """
        if not path.exists():
            raise LabError(f"{path}: no such inventory; give one with --inventory")
        command = Path(sys.executable).parent / "ansible-inventory"
        try:
            done = subprocess.run(
                [str(command), "--list", "-i", str(path)],
                cwd=PROJECT,
                env=os.environ | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")},
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            user = f"as user {os.geteuid()}; the lab needs root"
            raise LabError(f"{command} cannot be run {user}: {error.strerror}") from error
        if done.returncode != 0:
            raise LabError(f"{path}: Ansible cannot read this inventory: {done.stderr.strip()}")
        tree = json.loads(done.stdout)
        hosts = _members(tree, "lab_machines")
        variables = tree.get("_meta", {}).get("hostvars", {})
        origin = bool(_members(tree, "lab_origin"))
        return cls.from_vars({host: variables.get(host, {}) for host in hosts}, origin=origin)

    @classmethod
    def from_vars(cls, hosts: Mapping[str, Mapping[str, Any]], *, origin: bool = False) -> LabSpec:
        """Make a lab of its machines' variables.

        Args:
            hosts: Variables of each host of the group ``lab_machines``.
            origin: Whether the group ``lab_origin`` has a host.

        Returns:
            The lab.

        Raises:
            LabWordsError: Something is wrong; the message has every problem.
        """
        return _Reader(hosts).read(origin=origin)


def misspelt(word: str) -> bool:
    """Whether a variable's name claims to be one of the lab's words and is none."""
    return word.startswith("lab_") and word not in WORDS and not word.startswith(_NOT_OURS)


def _members(tree: Mapping[str, Any], group: str) -> list[str]:
    words = tree.get(group, {})
    found = list(words.get("hosts", []))
    for child in words.get("children", []):
        found += [host for host in _members(tree, child) if host not in found]
    return found


@dataclass
class _Reader:
    """Reads the words of all hosts and keeps every problem until the end."""

    hosts: Mapping[str, Mapping[str, Any]]
    problems: list[str] = field(default_factory=list)

    def read(self, *, origin: bool) -> LabSpec:
        if not self.hosts:
            raise LabWordsError(
                "the inventory has no lab: its group lab_machines is empty; "
                "choose a lab's inventory with --inventory (default: inventories/lab)"
            )
        self._unknown_words()
        name = self._lab_name()
        subnet = self._subnet()
        suite = self._suite()
        memory, disk = self._amount("lab_memory_mib"), self._amount("lab_disk_mib")
        dns = self._dns()
        machines = [self._machine(host, words, name) for host, words in self.hosts.items()]
        self._addresses(machines, subnet)
        if self.problems or subnet is None:
            raise LabWordsError(self.problems)
        known = tuple(machine for machine in machines if machine is not None)
        return LabSpec(name, subnet, known, suite, memory, disk, dns, origin)

    def _wrong(self, where: str, word: str, given: object, allowed: str) -> None:
        self.problems.append(f"{where}: {word}: given {given!r}; allowed: {allowed}")

    def _unknown_words(self) -> None:
        for host, words in self.hosts.items():
            for word in filter(misspelt, words):
                near = difflib.get_close_matches(word, WORDS, 1)
                hint = f"did you mean {near[0]}? " if near else ""
                self.problems.append(f"{host}: {word}: unknown; {hint}known: {', '.join(WORDS)}")

    def _shared(self, word: str) -> Any:
        """Return a word that all machines of a lab must agree on."""
        values = {host: words.get(word, _SHARED[word]) for host, words in self.hosts.items()}
        first = next(iter(values.values()))
        if any(value != first for value in values.values()):
            said = ", ".join(f"{host} {value!r}" for host, value in values.items())
            self.problems.append(
                f"lab: {word}: the machines disagree ({said}); "
                "set it once, for the group lab_machines"
            )
        return first

    def _lab_name(self) -> str:
        name = self._shared("lab_name")
        if not isinstance(name, str) or not _NAME.fullmatch(name) or not len(name) <= _LAB_NAME_MAX:
            allowed = f"1 to {_LAB_NAME_MAX} of a-z, 0-9 and -, beginning with a letter"
            self._wrong("lab", "lab_name", name, f"{allowed} (it becomes an interface's name)")
        return str(name)

    def _subnet(self) -> IPv4Network | None:
        given = self._shared("lab_subnet")
        try:
            subnet = IPv4Network(given if isinstance(given, str) else "")
        except (AddressValueError, NetmaskValueError, ValueError):
            subnet = None
        if subnet is None or subnet.prefixlen not in _PREFIXES:
            allowed = f"an IPv4 network of /{_PREFIXES[0]} to /{_PREFIXES[-1]}"
            self._wrong("lab", "lab_subnet", given, f"{allowed}, such as 10.97.53.0/24")
            return None
        return subnet

    def _suite(self) -> str:
        suite = os.environ.get("VLLM_LAB_SUITE") or self._shared("lab_suite")
        if suite not in SUITES:
            self._wrong("lab", "lab_suite", suite, ", ".join(SUITES))
        return str(suite)

    def _amount(self, word: str) -> int:
        given = self._shared(word)
        # Extra variables given as NAME=VALUE are strings.
        if isinstance(given, bool) or not re.fullmatch(r"\d{1,9}", str(given)):
            self._wrong("lab", word, given, "a whole number of MiB, 0 or more")
            return 0
        return int(given)

    def _dns(self) -> tuple[IPv4Address, ...]:
        given = self._shared("lab_dns")
        servers = [_address(item) for item in given] if isinstance(given, list) else [None]
        known = tuple(server for server in servers if server and not server.is_loopback)
        if len(known) != len(servers):
            self._wrong("lab", "lab_dns", given, "a list of IPv4 addresses, none of 127.0.0.0/8")
        return known

    def _machine(self, host: str, words: Mapping[str, Any], lab: str) -> MachineSpec | None:
        full = f"{lab}-{host}"
        if not _NAME.fullmatch(host) or len(full) > _MACHINE_NAME_MAX:
            longest = _MACHINE_NAME_MAX - len(lab) - 1
            self._wrong(
                host, "the host's name", host, f"1 to {longest} of a-z, 0-9, -, from a letter on"
            )
        given = words.get("lab_address")
        address = _address(given)
        if address is None:
            self._wrong(host, "lab_address", given, "a literal IPv4 address, such as 10.97.53.11")
        packages = self._list(host, words, "lab_packages", _PACKAGE, "names of Debian packages")
        pip = self._list(host, words, "lab_pip", _REQUIREMENT, "requirements such as name==1.0")
        seed, binds = self._seed(host, words), self._binds(host, words)
        if address is None:
            return None
        return MachineSpec(host, address, packages, pip, seed, binds)

    def _list(
        self, host: str, words: Mapping[str, Any], word: str, item: re.Pattern[str], kind: str
    ) -> tuple[str, ...]:
        given = words.get(word, [])
        if not isinstance(given, list) or not all(
            isinstance(entry, str) and item.fullmatch(entry) for entry in given
        ):
            self._wrong(host, word, given, f"a list of {kind}")
            return ()
        return tuple(sorted({str(entry) for entry in given}))

    def _seed(self, host: str, words: Mapping[str, Any]) -> Path | None:
        given = words.get("lab_seed")
        if given is None:
            return None
        path = PROJECT / str(given)
        if not path.is_dir():
            self._wrong(host, "lab_seed", given, f"a directory; {path} is none")
        return path

    def _binds(self, host: str, words: Mapping[str, Any]) -> tuple[Bind, ...]:
        given = words.get("lab_binds", [])
        binds = []
        for entry in given if isinstance(given, list) else [given]:
            parts = entry.split(":") if isinstance(entry, str) else []
            if len(parts) != len(("source", "target")) or not all(
                part.startswith("/") for part in parts
            ):
                self._wrong(host, "lab_binds", entry, "/path/here:/path/in/the/machine")
                continue
            source = Path(parts[0])
            if not source.exists() and not source.is_relative_to(CACHE_ROOT):
                self._wrong(host, "lab_binds", entry, f"a path that exists; {source} does not")
            binds.append(Bind(source, PurePosixPath(parts[1])))
        return tuple(binds)

    def _addresses(
        self, machines: Iterable[MachineSpec | None], subnet: IPv4Network | None
    ) -> None:
        seen: dict[IPv4Address, str] = {}
        for machine in machines:
            if machine is None:
                continue
            address, host = machine.address, machine.name
            if address in seen:
                self._wrong(host, "lab_address", str(address), f"one not yet {seen[address]}'s")
            seen[address] = host
            if subnet is None:
                continue
            if address not in subnet or address in (subnet[0], subnet[1], subnet[-1]):
                allowed = f"{subnet[2]} to {subnet[-2]} ({subnet[1]} is the bridge's)"
                self._wrong(host, "lab_address", str(address), allowed)


def _address(given: object) -> IPv4Address | None:
    try:
        return IPv4Address(given) if isinstance(given, str) else None
    except AddressValueError:
        return None
