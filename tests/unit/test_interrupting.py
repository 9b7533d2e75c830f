"""How the tests of interrupted runs cut one off: after so many tasks, with all that it began."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.interrupted.conftest import _follow

# So many tasks, of which the last takes long, and a child of the run that would outlive them.
RUN = (
    'sleep 600 & echo "child $!"; for n in $(seq {tasks}); do echo "TASK [number $n] *****"; '
    'echo "ok: [cpu1]"; done; sleep 600'
)


def begin(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and ") Z " not in stat.read_text()


def test_a_run_that_is_not_disturbed_is_read_to_its_end() -> None:
    done = _follow(begin('echo "TASK [one] ***"; echo "TASK [role : two] *"; exit 2'), None, 0)
    assert (done.status, done.tasks) == (2, ["one", "role : two"])


@pytest.mark.parametrize(("after", "delay"), [(1, 0.0), (3, 0.05)])
def test_a_run_is_killed_as_the_task_after_the_last_begins(after: int, delay: float) -> None:
    done = _follow(begin(RUN.format(tasks=after + 1)), after, delay)
    assert done.status == -signal.SIGKILL
    assert done.tasks == [f"number {n}" for n in range(1, after + 2)]
    child = int(done.output.split()[1])
    deadline = time.monotonic() + 60
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        assert not alive(child), "what the run had started lives on"
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)
