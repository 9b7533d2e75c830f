"""What an instance's unit says beyond the template that all instances share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_ansible.data import Device

# Every version has this program; `vllm serve` came later.
SERVER = "/opt/vllm/current/bin/python -m vllm.entrypoints.openai.api_server"
GPU = [
    # The driver's devices and no others, as DevicePolicy=closed stays. By their groups (nvidia,
    # nvidia-uvm, nvidia-caps for MIG) and not one by one: with some hidden, NVML and CUDA would
    # number the others anew. Who computes where is CUDA_VISIBLE_DEVICES's to say.
    "PrivateDevices=false",
    "DeviceAllow=char-nvidia* rw",
    # The engine may not become root, so it cannot make missing device nodes as CUDA does elsewhere.
    "ExecStartPre=-+/usr/bin/nvidia-modprobe -c 0 -u",
    # Workers on several GPUs speak over the loopback of the unit's own, private network.
    "IPAddressAllow=localhost",
]
LOOPBACK = [
    # No socket: the door reaches the engine on 127.0.0.1, and nothing else is reached.
    "PrivateNetwork=false",
    "IPAddressAllow=localhost",
]
# What the template says, in seconds: for how long it drains at most, and what a stop takes besides.
DRAIN, STOPPING = 30, 30
# Its limit of starts: so many within so many seconds, with a pause of so many after each.
STARTS, INTERVAL, PAUSE = 5, 3600, 5


class Form(NamedTuple):
    """What a version can do: listen on a Unix socket, read its options from a file."""

    has_socket: bool
    has_config_file: bool


def drop_in(device: Device, config: Mapping[str, Any], form: Form, ready_timeout: int) -> list[str]:
    """The lines that differ from the template, first those of the section [Service]; or none.

    Args:
        device: What the engine computes on.
        config: Arguments by flag.
        form: What its version can do.
        ready_timeout: Seconds that a start may take.
    """
    lines = list(GPU) if device == "gpu" else []
    drain = config.get("shutdown-timeout", DRAIN)
    if isinstance(drain, int) and drain > DRAIN:
        lines.append(f"TimeoutStopSec={drain + STOPPING}")
    if not form.has_socket:
        lines += [line for line in LOOPBACK if line not in lines]
    if not form.has_config_file:
        lines += ["ExecStart=", f"ExecStart={SERVER} {' '.join(map(quoted, words(config)))}"]
    # Or a start that fails this late would never be one too many.
    interval = STARTS * (ready_timeout + PAUSE)
    return [*lines, "[Unit]", f"StartLimitIntervalSec={interval}"] if interval > INTERVAL else lines


def words(config: Mapping[str, Any]) -> list[str]:
    """A configuration as arguments: a switch alone, a list's items behind one flag."""
    found: list[str] = []
    for flag, value in sorted(config.items()):
        if value is False or value is None:
            continue
        found.append(f"--{flag}")
        if value is True:
            continue
        items = value if isinstance(value, list) else [value]
        found += [json.dumps(i) if isinstance(i, (dict, list)) else str(i) for i in items]
    return found


def quoted(word: str) -> str:
    """A word as systemd reads it back: its quotes, its specifiers (%), its variables ($)."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    plain = escaped == word and word and not any(c.isspace() or c in "';" for c in word)
    return word if plain else f'"{escaped}"'
