"""The web UI's own code, which runs in another environment, asked in this one."""

import pytest

from tests.unit.clients.conftest import serve

__all__ = ["serve"]


@pytest.fixture
def anyio_backend():
    return "asyncio"
