"""What the checks share: the servers, their addresses, keys and receipts."""

import json
import os
from pathlib import Path

import httpx
import pytest

from tests.machines import Machines

INSTANCE = "smollm2-135m"
UNIT = f"vllm@{INSTANCE}.service"
MODEL = "smollm2-135m-instruct"
PORT = 8000
# A scenario may have machines of its own; else they are the shared inventory's.
_OWN = Path(os.environ.get("MOLECULE_SCENARIO_DIRECTORY", "/nowhere"), "inventory")
INVENTORY = _OWN if _OWN.is_dir() else Path(__file__).resolve().parents[2] / "inventory"

_MACHINES = Machines(INVENTORY)
# The others are the origin, a mirror host and the like.
SERVERS = [_MACHINES.place(name) for name in _MACHINES.names if name.startswith("cpu")]


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
