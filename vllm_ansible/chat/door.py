"""Where a server is reached and with which key: as said, or as an inventory says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from vllm_ansible.chat.errors import ChatError
from vllm_ansible.inventory import HostWords, InventoryError, read_inventory
from vllm_ansible.lab import LabError, LabSpec
from vllm_ansible.lab import ssh as lab_ssh
from vllm_ansible.lab.machine import Machine
from vllm_ansible.plan.serving import door_address

VARIABLE = "VLLM_API_KEY"


@dataclass(frozen=True)
class Door:
    """A server's API. `key_source` says in words where the key is from."""

    url: str
    model: str | None = None
    key: str | None = None
    key_source: str = "none was given"


def given_key(file: Path | None) -> tuple[str | None, str]:
    """Return the key out of a file or the environment, and where it is from.

    Raises:
        ChatError: The file cannot be read, or holds no key.
    """
    if file is None:
        return _key(os.environ.get(VARIABLE) or None, f"from {VARIABLE}")
    return _key(_read(file), f"from {file}")


def from_inventory(
    inventory: Path,
    host: str | None = None,
    instance: str | None = None,
    given: tuple[str, str] | None = None,
) -> Door:
    """Return where an inventory's instance is reached. No host is asked.

    Args:
        inventory: Inventory directory or file.
        host: A server of it; None where it has only one.
        instance: An instance of that server; None where it has only one.
        given: A key and where it is from, which wins over the inventory's.

    Raises:
        ChatError: The inventory is refused, or does not say which instance is meant.
    """
    try:
        hosts = {one.host: one for one in read_inventory(inventory).hosts}
    except InventoryError as error:
        raise ChatError(str(error)) from error
    chosen = hosts[_one_of(hosts, host, "--host")]
    checked = chosen.check()
    if checked.words is None:
        raise ChatError("\n".join(str(problem) for problem in checked.problems))
    instances = {one.name: one for one in checked.words.instances}
    words = instances[_one_of(instances, instance, "--instance")]
    address = door_address(checked.words.gateway.listen)
    _reachable(chosen, address, words.port)
    key, source = given or _key_of(chosen, inventory)
    names = words.served_names or [words.model]
    return Door(f"http://{address}:{words.port}", names[0], key, source)


def _one_of(known: Collection[str], given: str | None, option: str) -> str:
    names = ", ".join(known)
    if given is None and len(known) == 1:
        return next(iter(known))
    if given is None:
        raise ChatError(f"Say which with {option}: {names or 'there is none'}.")
    if given not in known:
        raise ChatError(f"{option} {given}: the inventory has {names or 'none'}.")
    return given


def _reachable(host: HostWords, address: str, port: int) -> None:
    """Refuse a door on another computer's loopback: here that address leads somewhere else."""
    where = str(host.variables.get("__address__") or host.host)
    if _loopback(address) and not _loopback(where):
        raise ChatError(
            f"The door of {host.host} listens on its own loopback only. Make a tunnel, "
            f"`ssh -N -L {port}:127.0.0.1:{port} {where}`, and chat with "
            f"--url http://127.0.0.1:{port}; or name an address in vllm_gateway.listen."
        )


def _loopback(address: str) -> bool:
    try:
        return ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost"


def _key_of(host: HostWords, inventory: Path) -> tuple[str | None, str]:
    """The key that the inventory gives; else the one made on a machine of the lab."""
    gateway = host.variables.get("vllm_gateway") or {}
    if gateway.get("api_key"):
        return _key(str(gateway["api_key"]), "from the inventory's vault")
    if gateway.get("api_key_file"):
        file = Path(str(gateway["api_key_file"])).expanduser()
        return _key(_read(file), f"from {file}")
    roles = host.variables.get("__role_variables__") or {}
    return _lab_key(host.host, inventory, roles.get("gateway_key_path", "/etc/vllm/api_key"))


def _lab_key(host: str, inventory: Path, path: str) -> tuple[str | None, str]:
    """The key on a machine of the lab; real hosts' keys are their administrators' to give."""
    try:
        spec = LabSpec.from_inventory(inventory.resolve())
        machine = Machine(spec, spec.machine(host))
    except LabError:
        return None, "none was given"
    if not os.access(spec.key, os.R_OK):
        return None, "none was given, and the lab is not up or you are not root"
    command = [*lab_ssh.command(machine), f"cat {path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ChatError(f"The key on {host} cannot be read: {done.stderr.strip()}")
    return _key(done.stdout, f"from {host}:{path}")


def _read(file: Path) -> str:
    try:
        return file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ChatError(f"The key cannot be read: {error}") from error


def _key(text: str | None, source: str) -> tuple[str | None, str]:
    if text is None:
        return None, "none was given"
    key = text.strip()
    if not key:
        raise ChatError(f"What comes {source} is empty and no key.")
    if not (key.isascii() and key.isprintable()):
        raise ChatError(f"What comes {source} is no key: it is more than one line of ASCII.")
    return key, source
