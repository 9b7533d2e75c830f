"""What the checks share: the two instances, and figures that are printed at the end."""

from pathlib import Path

import pytest

from tests import figures
from tests.instances import Instance
from tests.machines import Machines

INVENTORY = Path(__file__).resolve().parents[1] / "inventory"
_MACHINES = Machines(INVENTORY)
figure, pytest_terminal_summary = figures.figure, figures.pytest_terminal_summary


class Vectors(Instance):
    """An instance that is asked for vectors."""

    def ask(self):
        asked = {"model": self.model, "input": "The sky is blue."}
        return self.client.post("/v1/embeddings", json=asked)


@pytest.fixture(scope="session")
def chat():
    return Instance(_MACHINES, "cpu1", "chat", 8000, "smollm2-135m-instruct")


@pytest.fixture(scope="session")
def vectors():
    return Vectors(_MACHINES, "cpu1", "vectors", 8001, "tiny-bge")


@pytest.fixture
def quiet(chat, vectors):
    """Both answer, and no start is counted against them; the processes of the second."""
    for one in (chat, vectors):
        one.systemctl("reset-failed")
        one.ready()
    return vectors.processes()
