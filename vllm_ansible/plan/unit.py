"""What an instance's unit says beyond the template that all instances share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

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


def drop_in(
    device: Device, config: Mapping[str, Any], *, has_socket: bool, has_config_file: bool
) -> list[str]:
    """The lines of the section [Service] that differ; empty where the template says it all.

    Args:
        device: What the engine computes on.
        config: Arguments by flag.
        has_socket: Whether it listens on a Unix socket.
        has_config_file: Whether it reads them from a file.
    """
    lines = list(GPU) if device == "gpu" else []
    if not has_socket:
        lines += [line for line in LOOPBACK if line not in lines]
    if not has_config_file:
        lines += ["ExecStart=", f"ExecStart={SERVER} {' '.join(map(quoted, words(config)))}"]
    return lines


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
