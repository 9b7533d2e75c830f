"""Which compiled wheel a host can load, and who compiles what none of the kept ones is. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from vllm_ansible.plan.result import WheelOrder

_MANYLINUX = re.compile(r"manylinux_(?P<major>\d+)_(?P<minor>\d+)_(?P<architecture>\w+)")


class Kept(NamedTuple):
    """A wheel that the site has: its key, file name and SHA-256."""

    key: str
    filename: str
    sha256: str


def unfit(filename: str, order: WheelOrder) -> str | None:
    """Why a host cannot load a wheel, by the wheel's name; None when it can.

    Args:
        filename: The wheel's, whose tags must tell the truth (PEP 425, PEP 600).
        order: What the host needs.
    """
    try:
        name, version, _, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        return f"{filename} is no wheel's name: {error}"
    if name != canonicalize_name(order.project) or version != Version(order.version):
        return f"{filename} is not {order.project} {order.version}"
    reasons = [_tag(filename, tag, order) for tag in sorted(tags, key=str)]
    return None if None in reasons else reasons[0]


def _tag(filename: str, tag: Tag, order: WheelOrder) -> str | None:
    wanted = f"cp{order.python.replace('.', '')}"
    if tag.abi == "abi3":
        if int(tag.interpreter[3:]) > int(wanted[3:]):
            return f"{filename} is for Python {tag.interpreter} and newer, the host has {wanted}"
    elif tag.interpreter != wanted:
        return f"{filename} is for Python {tag.interpreter}, the host has {wanted}"
    match = _MANYLINUX.fullmatch(tag.platform)
    if match is None:
        return f"{filename} does not say which glibc it needs ({tag.platform})"
    if match["architecture"] != order.architecture:
        return f"{filename} is for {match['architecture']}, the host is {order.architecture}"
    needed = f"{match['major']}.{match['minor']}"
    if order.glibc is not None and Version(order.glibc) < Version(needed):
        return (
            f"{filename} needs glibc {needed}, the host has {order.glibc}: let a host with glibc "
            f"{order.glibc} or older compile (group build), or say vllm_engine.compiler: conda"
        )
    return None


def choose(order: WheelOrder, kept: Sequence[Kept]) -> Kept | None:
    """A wheel of the order's key that the host can load; the last by name, if there are several."""
    fitting = [one for one in kept if one.key == order.key and unfit(one.filename, order) is None]
    return max(fitting, key=lambda one: one.filename, default=None)


def reasons(order: WheelOrder, kept: Sequence[Kept]) -> list[str]:
    """Why none of the kept wheels of the order's key fits."""
    found = (unfit(one.filename, order) for one in kept if one.key == order.key)
    return [reason for reason in found if reason is not None]


def to_compile(
    orders: Mapping[str, WheelOrder], kept: Sequence[Kept], builder: str | None
) -> dict[str, tuple[str, list[str]]]:
    """What must be compiled, by key: the host that does it and the hosts that wait for it.

    Args:
        orders: The wheel that each server needs, by the server's name.
        kept: The wheels that the site has.
        builder: The inventory's build host. Without one the server with the oldest glibc compiles,
            since what is built on a new system does not load on an old one.
    """
    waiting: dict[str, list[str]] = {}
    for host, order in sorted(orders.items()):
        if choose(order, kept) is None:
            waiting.setdefault(order.key, []).append(host)
    return {
        key: (builder or min(hosts, key=lambda one: _age(orders[one])), hosts)
        for key, hosts in waiting.items()
    }


def _age(order: WheelOrder) -> Version:
    return Version(order.glibc or "0")
