"""Waiting for an engine ends with its first answer, or with the journal's last lines."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.standins import engine
from tests.unit.modules.conftest import ModuleRunner, write_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SYSTEMCTL = """#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/systemctl.calls"
looks=$(wc -l < "$here/systemctl.calls")
test -e "$here/state.$looks" && cp "$here/state.$looks" "$here/state"
cat "$here/state"
"""
# What a server says whose engine, another process, ends with an error: why is far above the end.
JOURNALCTL = """#!/bin/sh
echo "$@" > "$(dirname "$0")/journalctl.calls"
before='2026-11-29T08:00:00+00:00 cpu1 vllm[12]: '
echo "${before}(EngineCore pid=13) torch.OutOfMemoryError: not enough memory"
for line in $(seq 50); do echo "$before  File module.py, line $line"; done
echo "${before}RuntimeError: Engine core initialization failed. See root cause above."
"""


def state(active: str = "active", restarts: int = 0, load: str = "loaded") -> str:
    result = "exit-code" if active == "failed" else "success"
    return (
        f"LoadState={load}\nActiveState={active}\nSubState=x\nResult={result}\n"
        f"NRestarts={restarts}\nExecMainCode=1\nExecMainStatus=1\n"
    )


class Host:
    """Stand-ins of systemctl and journalctl, and an engine on a Unix socket."""

    def __init__(self, programs: Path, socket: Path, module: ModuleRunner) -> None:
        self.programs, self.socket, self.module = programs, socket, module
        self.servers: list[Any] = []
        write_program(programs / "systemctl", SYSTEMCTL)
        write_program(programs / "journalctl", JOURNALCTL)
        self.unit(state())

    def unit(self, text: str, look: int | None = None) -> None:
        (self.programs / ("state" if look is None else f"state.{look}")).write_text(text)

    def looks(self) -> int:
        calls = self.programs / "systemctl.calls"
        return len(calls.read_text().splitlines()) if calls.exists() else 0

    def serve(self, *words: str) -> None:
        server: Any = engine.make_server(engine.parse([f"--uds={self.socket}", *words]))
        self.servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(self, **changes: Any) -> dict[str, Any]:
        params = {"unit": "vllm@tiny.service", "socket": str(self.socket), "interval": 0.1}
        return self.module(**{"timeout": 20, **params, **changes})


@pytest.fixture
def host(programs: Path, tmp_path: Path, module: ModuleRunner) -> Iterator[Host]:
    made = Host(programs, tmp_path / "api.sock", module)
    yield made
    for server in made.servers:
        server.shutdown()
        server.server_close()


def test_an_instance_that_answers_is_ready(host: Host) -> None:
    host.serve()
    result = host.run()
    assert result["ready"]
    assert result["health"] == "200"
    assert not result["changed"]


def test_an_engine_without_a_socket_is_asked_on_its_address(host: Host) -> None:
    server: Any = engine.make_server(engine.parse(["--port=0"]))
    host.servers.append(server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_address[1]}"
    assert host.module(unit="vllm@tiny.service", address=address, timeout=20)["health"] == "200"


def test_it_must_be_told_where_the_engine_listens(host: Host) -> None:
    assert "socket, address" in host.module(unit="vllm@tiny.service", fails=True)["msg"]


def test_it_waits_until_the_socket_is_there(host: Host) -> None:

    def serve_once_missed() -> None:
        # The third look at the unit follows a question that found no socket.
        while host.looks() < 3:
            time.sleep(0.05)
        host.serve()

    threading.Thread(target=serve_once_missed, daemon=True).start()
    assert host.run(timeout=100)["ready"]
    assert host.looks() >= 3


def test_a_failed_unit_ends_the_wait_at_once_with_its_journal(host: Host) -> None:
    host.unit(state("failed"))
    # The runner waits for a fifth of that.
    result = host.run(fails=True, journal_lines=7, timeout=600)
    assert "vllm@tiny.service is not ready: it failed (exit-code, exit status 1)" in result["msg"]
    error = "torch.OutOfMemoryError: not enough memory"
    assert f"Errors in its journal:\n{error}\nThe end of its journal:\n" in result["msg"]
    assert result["errors"] == [error]
    assert len(result["journal"]) == 7
    assert result["journal"][-1].endswith("See root cause above.")
    asked = (host.programs / "journalctl.calls").read_text()
    assert "--unit=vllm@tiny.service --lines=1000" in asked


def test_a_unit_that_keeps_restarting_is_given_up(host: Host) -> None:
    host.unit(state("activating", restarts=5))
    for look, restarts in ((3, 6), (4, 7)):
        host.unit(state("activating", restarts=restarts), look)
    result = host.run(fails=True)
    assert "it restarted 2 times" in result["msg"]
    assert result["restarts"] == 2


def test_old_restarts_are_not_held_against_it(host: Host) -> None:
    host.unit(state(restarts=9))
    host.serve()
    assert host.run(max_restarts=0)["ready"]


def test_a_unit_that_is_not_there_is_named(host: Host) -> None:
    host.unit(state("inactive", load="not-found"))
    assert "it is not-found" in host.run(fails=True)["msg"]


def test_the_wait_has_an_end(host: Host) -> None:
    result = host.run(fails=True, timeout=1)
    assert "not ready within 1 s" in result["msg"]
    assert "No such file" in result["msg"]


def test_a_dead_engine_is_not_ready(host: Host) -> None:
    host.serve("--fail-after=0")
    result = host.run(fails=True, timeout=1)
    assert "/health: 503" in result["msg"]


def test_check_mode_looks_once(host: Host) -> None:
    # The runner waits for a fifth of that.
    result = host.run(check=True, timeout=600)
    assert not result["ready"]
