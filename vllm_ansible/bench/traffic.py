"""Counts, in the kernel, what comes into a lab's machines from outside.

Two tables of nftables count and decide nothing: one sees what is routed into the lab's bridge, the
other what the origin sends over it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vllm_ansible.bench.report import Count
from vllm_ansible.lab import LabError, LabSpec
from vllm_ansible.lab.system import run

_FAMILIES = {"inet": "internet", "bridge": "origin"}
# nftables' names have no hyphen; machines' names have no underscore.
_TABLE = "vllm_bench_{}"


def rules(lab: LabSpec, origin: str) -> str:
    """The two tables, as `nft -f` reads them.

    Args:
        lab: The lab; each of its machines but the origin gets its counters.
        origin: Name of the machine that stands for the outside.
    """
    table = _TABLE.format(_name(lab.name))
    outside = lab.machine(origin).address
    machines = {_name(one.name): one.address for one in lab.machines if one.name != origin}
    routed = f'iifname != "{lab.bridge}" oifname "{lab.bridge}"'
    bridged = f"ip saddr {outside}"
    text = []
    for family, match in (("inet", routed), ("bridge", bridged)):
        counters = [f"counter {name} {{ }}" for name in machines]
        counting = [
            f"{match} ip daddr {address} counter name {name}" for name, address in machines.items()
        ]
        body = "\n".join(
            [
                *counters,
                "chain forward {",
                # Before other tables may drop anything: what came is what counts.
                "type filter hook forward priority -300; policy accept;",
                *counting,
                "}",
            ]
        )
        # The first line makes it, so that the second has one to remove: whatever was there is gone.
        text.append(f"table {family} {table} {{ }}\ndelete table {family} {table}")
        text.append(f"table {family} {table} {{\n{body}\n}}")
    return "\n".join(text) + "\n"


def counted(listing: Mapping[str, Any]) -> dict[str, int]:
    """Bytes by machine out of `nft --json list counters table ...`.

    Raises:
        LabError: It is not as nftables writes it.
    """
    try:
        found = [entry["counter"] for entry in listing["nftables"] if "counter" in entry]
        return {one["name"].replace("_", "-"): int(one["bytes"]) for one in found}
    except (KeyError, TypeError, ValueError) as error:
        raise LabError(f"nft's counters are not understood: {error!r}") from error


class Counter:
    """Reads the counters of one lab.

    Args:
        lab: The lab whose tables are there.
    """

    def __init__(self, lab: LabSpec) -> None:
        self._table = _TABLE.format(_name(lab.name))

    def read(self) -> dict[str, Count]:
        """Bytes into each machine since the tables were made, by its name.

        Raises:
            LabError: The tables are gone.
        """
        found: dict[str, Count] = {}
        for family, kind in _FAMILIES.items():
            listing = run("nft", "--json", "list", "counters", "table", family, self._table)
            for name, count in counted(json.loads(listing.stdout)).items():
                found[name] = found.get(name, Count()).model_copy(update={kind: count})
        return found


@contextmanager
def counting(lab: LabSpec, origin: str) -> Iterator[Counter]:
    """Counts from here on; the tables are removed at the end.

    Args:
        lab: The lab.
        origin: Name of the machine that stands for the outside.

    Raises:
        LabError: The kernel refuses.
    """
    run("nft", "-f", "-", stdin=rules(lab, origin))
    try:
        yield Counter(lab)
    finally:
        for family in _FAMILIES:
            run("nft", "delete", "table", family, _TABLE.format(_name(lab.name)), check=False)


def since(before: Mapping[str, Count], after: Mapping[str, Count]) -> dict[str, Count]:
    """What was counted between two readings; a machine that the first lacks began at nothing."""
    none = Count()
    return {
        name: Count(
            internet=count.internet - before.get(name, none).internet,
            origin=count.origin - before.get(name, none).origin,
        )
        for name, count in after.items()
    }


def _name(text: str) -> str:
    return text.replace("-", "_")
