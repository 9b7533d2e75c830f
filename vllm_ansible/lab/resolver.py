"""The name servers that machines of the lab can ask."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

from vllm_ansible.lab.spec import LabSpec

# The first names only this computer itself where systemd-resolved or NetworkManager keep a
# stub on 127.0.0.53; the others then have the servers behind it.
_FILES = (
    Path("/etc/resolv.conf"),
    Path("/run/systemd/resolve/resolv.conf"),
    Path("/run/NetworkManager/no-stub-resolv.conf"),
)


def servers(lab: LabSpec, files: tuple[Path, ...] = _FILES) -> list[IPv4Address]:
    """Return the name servers for the lab's machines.

    Args:
        lab: The lab; its ``lab_dns`` wins.
        files: Where to look, best first.

    Returns:
        IPv4 addresses that a machine can reach; empty when none is known.
    """
    if lab.dns:
        return list(lab.dns)
    for path in files:
        if found := [server for server in _read(path) if not server.is_loopback]:
            return found
    return []


def _read(path: Path) -> list[IPv4Address]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        words = line.split()
        if words[:1] != ["nameserver"]:
            continue
        try:
            found.append(IPv4Address(words[1]))
        except (AddressValueError, IndexError):
            continue  # IPv6: the machines have none
    return found
