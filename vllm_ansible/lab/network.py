"""The lab's network on this computer: a bridge, its address and NAT."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable
from ipaddress import IPv4Network
from typing import Any

from vllm_ansible.lab.spec import LabSpec
from vllm_ansible.lab.system import run


def ip(*words: object) -> list[dict[str, Any]]:
    """Ask iproute2 and return its JSON; an error is an empty answer."""
    done = run("ip", "-json", *map(str, words), check=False)
    with contextlib.suppress(json.JSONDecodeError):
        return [entry for entry in json.loads(done.stdout or "[]") if entry]
    return []


def overlapping(lab: LabSpec) -> list[str]:
    """Name what on this computer already uses addresses of the lab's subnet.

    Returns:
        One entry per interface address or route, the lab's own bridge left out.
    """
    found = []
    for link in ip("-4", "address", "show"):
        if link.get("ifname") == lab.bridge:
            continue
        for address in link.get("addr_info", []):
            network = IPv4Network(f"{address['local']}/{address['prefixlen']}", strict=False)
            if network.overlaps(lab.subnet):
                found.append(f"{network} on {link['ifname']}")
    for route in ip("-4", "route", "show", "table", "all"):
        target = str(route.get("dst", "default"))
        if target == "default" or route.get("dev") == lab.bridge:
            continue
        # A route of type local, broadcast or multicast belongs to an address seen above.
        if route.get("type", "unicast") != "unicast":
            continue
        network = IPv4Network(target, strict=False)
        where = route.get("dev") or route.get("gateway") or "a route"
        text = f"{network} on {where}"
        if network.overlaps(lab.subnet) and text not in found:
            found.append(text)
    return found


def is_foreign(lab: LabSpec) -> bool:
    """Whether an interface has the bridge's name and is no bridge."""
    links = ip("-details", "link", "show", "dev", lab.bridge)
    return bool(links) and links[0].get("linkinfo", {}).get("info_kind") != "bridge"


def state(lab: LabSpec) -> dict[str, bool]:
    """Say which parts of the lab's network are there."""
    tools = shutil.which("ip") and shutil.which("nft")
    return {
        "bridge": bool(tools and ip("link", "show", "dev", lab.bridge)),
        "firewall": bool(tools and _table_text(lab)),
    }


# -- making ---------------------------------------------------------------------------------


def ensure(lab: LabSpec) -> list[str]:
    """Make what is missing of the lab's network.

    Returns:
        What was made, in words.

    Raises:
        LabError: The kernel refused something.
    """
    return [*_ensure_bridge(lab), *_ensure_table(lab), *_ensure_accepted(lab)]


def _ensure_bridge(lab: LabSpec) -> list[str]:
    made = []
    if not ip("link", "show", "dev", lab.bridge):
        run("ip", "link", "add", "name", lab.bridge, "type", "bridge", "forward_delay", "0")
        made.append(f"bridge {lab.bridge}")
    address = f"{lab.gateway}/{lab.subnet.prefixlen}"
    link = ip("address", "show", "dev", lab.bridge)[0]
    known = [f"{entry['local']}/{entry['prefixlen']}" for entry in link.get("addr_info", [])]
    if address not in known:
        run("ip", "address", "add", address, "dev", lab.bridge)
        made.append(f"address {address}")
    if "UP" not in link.get("flags", []):
        run("ip", "link", "set", lab.bridge, "up")
    return made


def _ensure_table(lab: LabSpec) -> list[str]:
    record = lab.state / "nftables.txt"
    current = _table_text(lab)
    if current and record.exists() and record.read_text(encoding="utf-8") == current:
        return []
    table = f"inet {lab.table}"
    rules = f"""
        table {table} {{}}
        delete table {table}
        table {table} {{
          chain postrouting {{
            type nat hook postrouting priority 100; policy accept;
            ip saddr {lab.subnet} ip daddr != {lab.subnet} masquerade
          }}
          chain forward {{
            type filter hook forward priority 0; policy accept;
            iifname "{lab.bridge}" accept
            oifname "{lab.bridge}" accept
          }}
        }}
    """
    run("nft", "-f", "-", stdin=rules)
    record.write_text(_table_text(lab), encoding="utf-8")
    return [f"firewall table {table}"]


def _table_text(lab: LabSpec) -> str:
    return run("nft", "list", "table", "inet", lab.table, check=False).stdout


def _ensure_accepted(lab: LabSpec) -> list[str]:
    """Pass the bridge through other tables that drop by default, such as Docker's or ufw's.

    An accept in one table does not spare a packet the drop of another (nft(8), "accept").
    """
    made = []
    listing = json.loads(run("nft", "-j", "list", "chains").stdout or "{}")
    for entry in listing.get("nftables", []):
        chain = entry.get("chain", {})
        if chain.get("hook") != "forward" or chain.get("policy") != "drop":
            continue
        where = (chain["family"], chain["table"], chain["name"])
        if where in {rule[:3] for rule in _accepting(lab)}:
            continue
        for side in ("iifname", "oifname"):
            words = [side, lab.bridge, "accept", "comment", f'"{_comment(lab)}"']
            run("nft", "insert", "rule", *where, *words)
        made.append(f"passage through the firewall chain {' '.join(where)}")
    return made


def _comment(lab: LabSpec) -> str:
    return f"vllm-lab {lab.name}"


def _accepting(lab: LabSpec) -> list[tuple[str, str, str, str]]:
    """Find the lab's rules in others' chains: family, table, chain, handle."""
    listing = json.loads(run("nft", "-j", "-a", "list", "ruleset", check=False).stdout or "{}")
    rules = [entry["rule"] for entry in listing.get("nftables", []) if "rule" in entry]
    return [
        (rule["family"], rule["table"], rule["chain"], str(rule["handle"]))
        for rule in rules
        if rule.get("comment") == _comment(lab)
    ]


# -- ports ----------------------------------------------------------------------------------


def attach(lab: LabSpec, leader: int) -> bool | None:
    """Plug a running machine into the bridge, as after the bridge was lost.

    Args:
        lab: The lab.
        leader: Process number of the machine's PID 1.

    Returns:
        Whether it had to be plugged in; None when the machine has lost its interface.
    """
    inside = run(
        "nsenter",
        f"--target={leader}",
        "--net",
        "ip",
        "-json",
        "link",
        "show",
        "host0",
        check=False,
    )
    try:
        index = json.loads(inside.stdout)[0]["link_index"]
    except (json.JSONDecodeError, IndexError, KeyError):
        return None
    port = next((link for link in ip("link", "show") if link["ifindex"] == index), None)
    if port is None:
        return None
    if port.get("master") == lab.bridge and "UP" in port["flags"]:
        return False
    run("ip", "link", "set", port["ifname"], "master", lab.bridge, "up")
    return True


# -- removing -------------------------------------------------------------------------------


def remove(lab: LabSpec) -> list[str]:
    """Remove the lab's network from this computer.

    Returns:
        What was removed, in words.
    """
    gone = []
    if shutil.which("nft"):
        for *where, handle in _accepting(lab):
            run("nft", "delete", "rule", *where, "handle", handle, check=False)
            gone.append("a firewall rule")
        if _table_text(lab):
            run("nft", "delete", "table", "inet", lab.table)
            gone.append(f"firewall table inet {lab.table}")
    if shutil.which("ip") and ip("link", "show", "dev", lab.bridge) and not is_foreign(lab):
        for port in _ports(lab):
            # The kernel removes a dead machine's interface by itself, perhaps at this moment.
            run("ip", "link", "delete", port, check=False)
        run("ip", "link", "delete", lab.bridge)
        gone.append(f"bridge {lab.bridge}")
    return gone


def _ports(lab: LabSpec) -> Iterable[str]:
    return [link["ifname"] for link in ip("link", "show", "master", lab.bridge)]
