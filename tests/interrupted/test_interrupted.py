"""A run that is killed, wherever that is, is completed by the next one, as if nothing had been."""

from __future__ import annotations

import itertools
import queue
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.interrupted.conftest import Run, Site
from vllm_ansible.bench.state import State, differing

pytestmark = pytest.mark.interrupted


@pytest.fixture(scope="session")
def undisturbed(site: Site) -> dict[str, tuple[Run, State]]:
    """What a run that nobody disturbs makes of each server."""

    def make(host: str) -> tuple[Run, State]:
        run = site.run(host)
        assert run.status == 0, run.output[-4000:]
        return run, site.state(host)

    with ThreadPoolExecutor(len(site.hosts)) as pool:
        return dict(zip(site.hosts, pool.map(make, site.hosts), strict=True))


def tell(text: str) -> None:
    """Say how far it is, for those who wait."""
    sys.stdout.write(f"FIGURE {text}\n")
    sys.stdout.flush()


def disturbed(
    site: Site, free: queue.Queue[str], undisturbed: dict[str, tuple[Run, State]],
    after: int, delay: float,
) -> dict[str, Any]:  # fmt: skip
    """What is wrong after a run that was killed after so many tasks, and another."""
    host = free.get()
    try:
        site.fresh(host)
        killed = site.run(host, kill_after=after, delay=delay)
        if killed.status != -9 or len(killed.tasks) != after + 1:
            return {"not killed": [killed.status, len(killed.tasks), killed.output[-2000:]]}
        again = site.run(host)
        if again.status != 0:
            return {f"killed in {killed.tasks[-1]!r}, failed": again.output[-3000:]}
        left = differing(undisturbed[host][1], site.state(host))
        return {f"killed in {killed.tasks[-1]!r}": left} if left else {}
    finally:
        free.put(host)


def test_a_run_that_is_killed_after_any_task_is_completed_by_the_next(
    site: Site, free: queue.Queue[str], undisturbed: dict[str, tuple[Run, State]],
    first: int, step: int,
) -> None:  # fmt: skip
    tasks = len(undisturbed[site.hosts[0]][0].tasks)
    points = range(first, tasks, step)
    assert len(points) > 0
    tell(f"a run has {tasks} tasks; it is killed after {', '.join(map(str, points))}")
    wrong: dict[int, Any] = {}
    with ThreadPoolExecutor(len(site.hosts)) as pool:
        # Between two tasks and within one, in turn.
        delays = itertools.cycle((0.0, 0.4))
        ends = pool.map(
            lambda after, delay: disturbed(site, free, undisturbed, after, delay), points, delays
        )
        for after, found in zip(points, ends, strict=True):
            tell(f"killed after {after}: {found or 'as undisturbed'}")
            wrong |= {after: found} if found else {}
    assert wrong == {}
