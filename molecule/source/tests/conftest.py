"""What the checks share: the build host, the servers, and the wheel that the site has compiled."""

import json
import tempfile
from pathlib import Path

import pytest
import testinfra

from vllm_ansible.lab import LabSpec

BASE = "/var/cache/vllm-build"
SERVERS = ["cpu1", "cpu2"]
# The wheels of the side effects.
ASIDE = {"broken", "left"}
_LAB = LabSpec.from_inventory(Path(__file__).resolve().parents[1] / "inventory")
_FILES = tempfile.TemporaryDirectory(prefix="vllm-checks-")
_CONFIG = Path(_FILES.name) / "ssh_config"
_CONFIG.write_text(
    f"Host *\n  IdentityFile {_LAB.key}\n  IdentitiesOnly yes\n  BatchMode yes\n"
    f"  UserKnownHostsFile {_LAB.known_hosts}\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n"
    f"  ControlPath {_FILES.name}/%C\n",
    encoding="utf-8",
)


def machine(name):
    return testinfra.get_host(f"ssh://root@{_LAB.machine(name).address}?ssh_config={_CONFIG}")


@pytest.fixture(scope="session")
def builder():
    """The machine that compiled."""
    return machine("build1")


@pytest.fixture(scope="session", params=SERVERS)
def server(request):
    """A machine that installed the wheel and has no compiler."""
    return machine(request.param)


@pytest.fixture(scope="session")
def site_key(builder):
    """The one key under which the site compiled."""
    keys = set(builder.check_output(f"ls {BASE}/wheels").split()) - ASIDE
    assert len(keys) == 1, keys
    return keys.pop()


@pytest.fixture(scope="session")
def build(builder, site_key):
    """What was recorded of the site's wheel."""
    return json.loads(builder.file(f"{BASE}/wheels/{site_key}/build.json").content_string)


@pytest.fixture(scope="session")
def wheel(site_key, build):
    """The site's wheel on the build host."""
    return f"{BASE}/wheels/{site_key}/{build['filename']}"
