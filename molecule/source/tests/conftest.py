"""What the checks share: the build host, the servers, and the wheel that the site has compiled."""

import json
from pathlib import Path

import pytest

from tests.machines import Machines

BASE = "/var/cache/vllm-build"
SERVERS = ["cpu1", "cpu2"]
# The wheels of the side effects.
ASIDE = {"broken", "left"}
machine = Machines(Path(__file__).resolve().parents[1] / "inventory").host


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
