"""How far long work is reaches those who watch a run, and nothing else is taken for it."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from vllm_ansible.cli.progress import watcher
from vllm_ansible.progress import amount, clock, fetching, heard, shown
from vllm_ansible.provisioning import TaskEvent
from vllm_ansible.provisioning.collect import Collector

FETCHING = {
    "phase": "fetching",
    "kind": "git-lfs",
    "url": "https://models.example/a/b.git",
    "done": 118_000_000,
    "total": 269_000_000,
    "rate": 11_200_000.0,
    "left": 13.5,
}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3671, "1 h 1 min")]
)
def test_a_time_is_said_as_people_say_it(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (4_300, "4.30 kB"),
        (24_300_000, "24.3 MB"),
        (15_200_000_000, "15.2 GB"),
        (152_000_000, "152 MB"),
    ],
)
def test_bytes_are_said_as_people_say_them(count, text):
    assert amount(count) == text


def test_a_download_says_bytes_share_source_rate_and_time_left():
    said = fetching(FETCHING)
    assert said == (
        "118 MB of 269 MB (43 %) from models.example (git-lfs), 11.2 MB/s, about 13 s left"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"phase": "asking", "total": None}, "asking models.example (git-lfs)"),
        ({"total": None, "rate": None, "left": None}, "118 MB from models.example (git-lfs)"),
        ({"phase": "proving"}, "269 MB are here and are proved"),
        (
            {"url": "file:///media/disk", "kind": "directory", "rate": None, "left": None},
            "118 MB of 269 MB (43 %) from /media/disk (directory)",
        ),
    ],
)
def test_what_is_not_known_is_left_out(change, said):
    assert fetching({**FETCHING, **change}) == said


def test_a_line_of_progress_is_known_again_also_in_colour():
    line = shown("cpu1", "model a: 3 MB")
    assert heard(line) == ("cpu1", "model a: 3 MB")
    assert heard(f"\x1b[0;32m{line}\x1b[0m\r") == ("cpu1", "model a: 3 MB")


@pytest.mark.parametrize("line", ["cpu1: torch from elsewhere", "ok: [cpu1]", "  > ", ""])
def test_no_other_line_is_taken_for_progress(line):
    assert heard(line) is None


def test_progress_reaches_those_who_watch_a_run():
    told = []
    collector = Collector(check=False, notify=lambda *words: told.append(words))
    collector.handle({"event": "playbook_on_play_start", "event_data": {"name": "Models"}})
    words = {"event": "verbose", "event_data": {"task": "The snapshot is here"}}
    collector.handle({**words, "stdout": shown("cpu1", "model a: 3 MB")})
    collector.handle({**words, "stdout": "cpu1: something else"})
    assert told[1:] == [("progress", "Models", "The snapshot is here", "cpu1", "model a: 3 MB")]


def test_a_plain_line_says_how_far_the_work_is():
    console = Console(file=None, width=200, force_terminal=False)
    with console.capture() as captured, watcher(console) as on_event:
        on_event(TaskEvent("progress", "Models", "T", "cpu1", 61.0, "model a: 3 MB"))
    assert captured.get() == "  1:01 Models: progress cpu1: model a: 3 MB\n"


def wait_for(written, text, count=1):
    """Waits until a display has drawn a text: it draws ten times a second, if it is let."""
    until = time.monotonic() + 30
    while written.getvalue().count(text) < count and time.monotonic() < until:
        time.sleep(0.05)


def test_on_a_terminal_each_host_s_work_has_a_line_until_it_ends():
    written = io.StringIO()
    console = Console(file=written, width=100, force_terminal=True, no_color=True, highlight=False)
    with watcher(console) as on_event:
        on_event(TaskEvent("task", "Models", "T", "", 0.0))
        on_event(TaskEvent("progress", "Models", "T", "cpu1", 1.0, "model [a]: 3 MB"))
        on_event(TaskEvent("progress", "Models", "T", "cpu2", 1.0, "model b: 4 MB"))
        wait_for(written, "model b: 4 MB")
        drawn = written.getvalue().count("model b: 4 MB")
        on_event(TaskEvent("changed", "Models", "T", "cpu1", 2.0))
        wait_for(written, "model b: 4 MB", drawn + 2)
    before, after = written.getvalue().split("cpu1: T")
    assert "cpu1: model [a]: 3 MB" in before
    assert "cpu2: model b: 4 MB" in before
    last = after.rsplit("Models", 1)[1]
    assert "cpu1: model [a]: 3 MB" not in last
    assert "cpu2: model b: 4 MB" in last
