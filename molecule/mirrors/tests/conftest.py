"""What the checks share: the machines, and what was asked of the origin and of the mirror."""

import json
import re
import tempfile
from pathlib import Path

import pytest
import testinfra

from vllm_ansible.lab import LabSpec

_LAB = LabSpec.from_inventory(Path(__file__).resolve().parents[1] / "inventory")
_FILES = tempfile.TemporaryDirectory(prefix="vllm-checks-")
_CONFIG = Path(_FILES.name) / "ssh_config"
_CONFIG.write_text(
    f"Host *\n  IdentityFile {_LAB.key}\n  IdentitiesOnly yes\n  BatchMode yes\n"
    f"  UserKnownHostsFile {_LAB.known_hosts}\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n"
    f"  ControlPath {_FILES.name}/%C\n",
    encoding="utf-8",
)
REQUEST = re.compile(r'(?P<client>\S+) .*?"GET (?P<path>\S+) [^"]*" (?P<status>\d+) (?P<bytes>\d+)')


def address(name):
    return str(_LAB.machine(name).address)


def machine(name):
    return testinfra.get_host(f"ssh://root@{address(name)}?ssh_config={_CONFIG}")


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
