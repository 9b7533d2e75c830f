"""What the checks share: the instance, and figures that are printed at the end."""

from pathlib import Path

import pytest

from tests import figures
from tests.instances import Instance
from tests.machines import Machines

INVENTORY = Path(__file__).resolve().parents[1] / "inventory"
_MACHINES = Machines(INVENTORY)
figure, pytest_terminal_summary = figures.figure, figures.pytest_terminal_summary


@pytest.fixture(scope="session")
def chat():
    return Instance(_MACHINES, "cpu1", "chat", 8000, "smollm2-135m-instruct")
