"""What an instance's unit says beyond the template that all instances share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_ansible.plan import share

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_ansible.data import Device
    from vllm_ansible.plan.context import Context

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
# MiB to which a limit of memory is rounded down.
ROUND = 256


class Form(NamedTuple):
    """What a version can do: listen on a Unix socket, read its options from a file."""

    has_socket: bool
    has_config_file: bool


def drop_in(
    device: Device,
    config: Mapping[str, Any],
    form: Form,
    ready_timeout: int,
    memory_mib: int | None,
) -> list[str]:
    """The lines that differ from the template, first those of the section [Service].

    Args:
        device: What the engine computes on.
        config: Arguments by flag.
        form: What its version can do.
        ready_timeout: Seconds that a start may take.
        memory_mib: The most memory that its processes may take together; None for no limit.
    """
    lines = list(GPU) if device == "gpu" else []
    if memory_mib is not None:
        lines.append(f"MemoryMax={memory_mib}M")
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


def memory_limits(
    context: Context, caches: Mapping[str, int], sizes: Mapping[str, int]
) -> dict[str, int]:
    """The most memory of each instance on a CPU, by name: what the others do not need, in MiB.

    The engine does not see such a limit and is not sized by it: it is there so that one that grows
    is killed itself, and neither its neighbours nor the host's own services.

    Args:
        context: The host's words and facts.
        caches: Each instance's KV cache in GiB, by name.
        sizes: The models' weights in MiB, by name; 0 where they are not known.
    """
    instances, mib = context.words.instances, share.MIB_PER_GIB
    needs = {
        i.name: share.ENGINE_OVERHEAD_MIB + sizes[i.model] + caches[i.name] * mib for i in instances
    }
    free = context.facts.memory_mib - share.SYSTEM_RESERVE_MIB - sum(needs.values())
    # Rounded, so that a kernel that takes a little more for itself is no reason for a restart.
    limits = {name: (need + max(free, 0)) // ROUND * ROUND for name, need in needs.items()}
    for name, limit in limits.items():
        why = "the host's memory less the system's reserve and what the other instances need"
        context.because(f"{name}.MemoryMax", f"{limit} MiB", why)
    return limits


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
