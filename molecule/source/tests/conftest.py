"""What the checks share: the build host, and the machine that installed the wheel."""

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


def _machine(name):
    address = _LAB.machine(name).address
    return testinfra.get_host(f"ssh://root@{address}?ssh_config={_CONFIG}")


@pytest.fixture(scope="session")
def builder():
    """The machine that compiled."""
    return _machine("build1")


@pytest.fixture(scope="session")
def server():
    """The machine that installed the wheel and has no compiler."""
    return _machine("cpu1")
