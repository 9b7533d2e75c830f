"""What the checks share: the machines, and what was asked of the origin and of the mirror."""

import json
import re
from pathlib import Path

import pytest

from tests.machines import Machines

_MACHINES = Machines(Path(__file__).resolve().parents[1] / "inventory")
address, machine = _MACHINES.address, _MACHINES.host
REQUEST = re.compile(r'(?P<client>\S+) .*?"GET (?P<path>\S+) [^"]*" (?P<status>\d+) (?P<bytes>\d+)')


@pytest.fixture(scope="session")
def store():
    return machine("store")


@pytest.fixture(scope="session")
def outside():
    """All requests that reached the origin: client, path, status, bytes."""
    text = machine("origin").check_output("cat /var/log/nginx/access.log")
    return [match.groupdict() for match in map(REQUEST.match, text.splitlines()) if match]


@pytest.fixture(scope="session")
def served(store):
    """All requests that reached the mirror, as it logged them."""
    text = store.check_output("cat /var/log/nginx/vllm-mirror.log")
    return [json.loads(line) for line in text.splitlines()]
