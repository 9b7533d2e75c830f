"""What the checks share: the server, its key, and a client for each of its instances."""

from pathlib import Path

import openai
import pytest

from tests.machines import Machines

_MACHINES = Machines(Path(__file__).resolve().parents[1] / "inventory")
PORTS = {"chat": 8000, "eyes": 8001, "vectors": 8002}
MODELS = {"chat": "smollm2-135m-instruct", "eyes": "tiny-qwen2-vl", "vectors": "tiny-bge"}


@pytest.fixture(scope="session")
def server():
    return _MACHINES.host("cpu1")


@pytest.fixture(scope="session")
def key(server):
    return server.file("/etc/vllm/api_key").content_string.strip()


def url(name):
    """The address of an instance's API, as users know it."""
    return f"http://{_MACHINES.address('cpu1')}:{PORTS[name]}/v1"


@pytest.fixture(scope="session")
def client(key):
    """A function that returns an instance's client."""
    return lambda name: openai.OpenAI(base_url=url(name), api_key=key, timeout=120, max_retries=0)
