"""What the checks share: the server's address, its key, the plan's paths."""

import json

import httpx
import pytest

INSTANCE = "smollm2-135m"
UNIT = f"vllm@{INSTANCE}.service"
MODEL = "smollm2-135m-instruct"
PORT = 8000


@pytest.fixture(scope="module")
def address(host):
    """The machine's address on the lab's bridge, as its users know it."""
    return host.backend.get_pytest_id() and host.ansible.get_variables()["lab_address"]


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
