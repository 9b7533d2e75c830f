"""SSH to the lab's machines, with the lab's own key and known hosts."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass

from vllm_ansible.lab.errors import LabError
from vllm_ansible.lab.machine import Machine
from vllm_ansible.lab.spec import LabSpec
from vllm_ansible.lab.system import run

_CONNECT_SECONDS = 3


@dataclass(frozen=True)
class Ready:
    """A machine that answers.

    Attributes:
        state: What systemd says of itself: running or degraded.
        failed: Units that failed.
    """

    state: str
    failed: tuple[str, ...] = ()


def command(machine: Machine, *options: str) -> list[str]:
    """Return the words that run ssh to a machine; the remote command is to be added."""
    lab = machine.lab
    settings = {
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": str(lab.known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "ConnectTimeout": str(_CONNECT_SECONDS),
        "LogLevel": "ERROR",
    }
    words = [f"-o{name}={value}" for name, value in settings.items()]
    address = str(machine.spec.address)
    return ["ssh", "-F", "none", "-i", str(lab.key), *words, *options, f"root@{address}"]


def wait_ready(
    machine: Machine, seconds: float, keeper: subprocess.Popen[bytes] | None = None
) -> Ready | None:
    """Wait until a machine answers by SSH and its systemd has finished starting.

    Args:
        machine: The machine.
        seconds: How long to wait.
        keeper: Its keeper, if it was started just now; its end ends the waiting.

    Returns:
        What the machine is; None when the time is over.

    Raises:
        LabError: The keeper ended; the message has the console's last lines.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if keeper is not None and keeper.poll() is not None:
            raise LabError(f"{machine.spec.name} did not start: {console_tail(machine)}")
        ready = ask(machine, timeout=max(1.0, deadline - time.monotonic()))
        if ready is not None:
            return ready
        time.sleep(0.1)
    return None


def ask(machine: Machine, timeout: float = 10.0) -> Ready | None:
    """Ask a machine once for its state; None when it does not answer."""
    script = "systemctl is-system-running --wait; systemctl --failed --plain --no-legend"
    try:
        done = run(*command(machine), script, check=False, timeout=timeout)
    except LabError:
        return None
    lines = done.stdout.splitlines()
    if not lines or lines[0] not in ("running", "degraded"):
        return None
    return Ready(lines[0], tuple(line.split()[0] for line in lines[1:] if line.strip()))


def console_tail(machine: Machine, lines: int = 15) -> str:
    """Return the last lines of a machine's console."""
    try:
        text = machine.console.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"{machine.console} cannot be read"
    return "\n".join(text.splitlines()[-lines:]) or "its console is empty"


def close_shared(lab: LabSpec) -> None:
    """End the shared connections that Ansible keeps open to the lab's machines."""
    for socket in (lab.state / "cp").glob("*"):
        if socket.is_socket():
            run("ssh", "-F", "none", f"-oControlPath={socket}", "-Oexit", "lab", check=False)
            socket.unlink(missing_ok=True)
