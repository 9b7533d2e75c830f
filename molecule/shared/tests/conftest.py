"""What the checks share: the servers, their addresses, keys and receipts.

testinfra does not resolve templates in an inventory's connection variables, and the lab's are
templates; so the addresses come from the lab's own reading of the inventory.
"""

import json
import os
import tempfile
from pathlib import Path

import httpx
import pytest

from vllm_ansible.lab import LabSpec

INSTANCE = "smollm2-135m"
UNIT = f"vllm@{INSTANCE}.service"
MODEL = "smollm2-135m-instruct"
PORT = 8000
# A scenario may have machines of its own; else they are the shared inventory's.
_OWN = Path(os.environ.get("MOLECULE_SCENARIO_DIRECTORY", "/nowhere"), "inventory")
INVENTORY = _OWN if _OWN.is_dir() else Path(__file__).resolve().parents[2] / "inventory"

_LAB = LabSpec.from_inventory(INVENTORY)
_FILES = tempfile.TemporaryDirectory(prefix="vllm-checks-")
_CONFIG = Path(_FILES.name) / "ssh_config"
_CONFIG.write_text(
    f"Host *\n  IdentityFile {_LAB.key}\n  IdentitiesOnly yes\n  BatchMode yes\n"
    f"  UserKnownHostsFile {_LAB.known_hosts}\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n"
    f"  ControlPath {_FILES.name}/%C\n",
    encoding="utf-8",
)
SERVERS = [
    f"ssh://root@{machine.address}?ssh_config={_CONFIG}"
    for machine in _LAB.machines
    if machine.name.startswith("cpu")  # the others are the origin, a mirror host and the like
]


@pytest.fixture(scope="module")
def address(host):
    """The machine's address on the lab's bridge, as its users know it."""
    return host.backend.host.name


@pytest.fixture(scope="module")
def key(host):
    """The API key, read as root on the machine."""
    return host.file("/etc/vllm/api_key").content_string.strip()


@pytest.fixture(scope="module")
def door(address, key):
    """A client of the gateway, from outside the machine, with the key."""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"http://{address}:{PORT}", headers=headers, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def receipt(host):
    """What the run recorded on the machine."""
    return json.loads(host.file("/var/lib/vllm/receipt.json").content_string)
