"""An engine to talk to: the stand-in, on a port of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.standins import engine


@dataclass
class Served:
    """A running stand-in: its API, and what it was asked."""

    url: str
    engine: engine.Engine


Serve = Callable[..., Served]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Return a function that starts an engine."""
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    servers: list[Any] = []

    def begin(*words: str) -> Served:
        server: Any = engine.make_server(engine.parse(["--port=0", *words]))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        return Served(url, server.RequestHandlerClass.engine)

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()
