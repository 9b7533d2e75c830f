"""What an interruption leaves is gone on from; a run that ends leaves nothing behind."""

import signal
import time

import pytest
from conftest import (
    REVISION,
    SIZE,
    TRIES,
    fetch,
    fetching,
    files,
    git,
    outside,
    snapshot,
    wait_until,
)

from vllm_ansible.progress import heard

# What an outside may have sent again, of the model's size.
MOST_AGAIN = 0.02
# What would be left of a download: the module, git and its helpers.
LEFT = "ps -eo pid,args | grep -E 'git|python3' | grep -v grep"


def share(line):
    """The percent that a line of progress tells of."""
    return int(line.partition("(")[2].partition(" %")[0]) if " %" in line else 0


@pytest.mark.parametrize("kind", [git, files])
def test_a_source_that_vanishes_half_way_costs_nothing_twice(figure, kind):
    name = f"vanished-{kind.__name__}"
    with outside("cpu1") as came:
        assert fetch(name, kind("/fault/vanish")).failed
        first = came()
        assert not fetch(name, kind()).failed
        again = came() / SIZE - 1
    assert 0.45 < first / SIZE < 0.6
    figure(f"bytes again after a cut at 50 % ({kind.__name__}): {again:.2%} (at most 2 %)")
    assert again <= MOST_AGAIN


@pytest.mark.parametrize("kind", [git, files])
def test_an_interrupted_run_leaves_no_process_and_is_gone_on_from(cpu1, figure, tmp_path, kind):
    name = f"interrupted-{kind.__name__}"
    with outside("cpu1") as came:
        with fetching(tmp_path, snapshot(name, kind("/fault/calm"))) as run:
            for line in run.stdout:
                news = heard(line)
                if news and share(news[1]) >= 40:
                    break
            begun = time.monotonic()
            run.send_signal(signal.SIGINT)
            assert run.wait(20) != 0
            assert time.monotonic() - begun < 10
        assert cpu1.run(LEFT).stdout == ""
        assert cpu1.check_output("find /run/vllm-ansible -mindepth 1") == ""
        assert not cpu1.file(f"{TRIES}/{name}/{REVISION}").exists
        assert 0.3 < came() / SIZE < 0.95
        assert not fetch(name, kind()).failed
        again = came() / SIZE - 1
    figure(f"bytes again after an interrupted run ({kind.__name__}): {again:.2%} (at most 2 %)")
    assert again <= MOST_AGAIN


def test_a_lost_connection_does_not_end_a_download(cpu1):
    begun = []

    def cut(line):
        if "%" in line and not begun:
            begun.append(line)
            # sshd and all its sessions end, and come back.
            script = "systemctl stop ssh; pkill -KILL sshd; sleep 6; systemctl start ssh"
            cpu1.check_output(f"systemd-run --on-active=1 sh -c '{script}'")

    tried = fetch("lost", git("/fault/calm"), on_progress=cut)
    assert begun
    assert not tried.failed
    assert any("out of reach" in line for line in tried.progress), tried.progress
    assert cpu1.file(f"{TRIES}/lost/{REVISION}").is_directory


def test_progress_says_bytes_rate_and_time_left():
    told = [line for line in fetch("slowly", files("/fault/calm")).progress if "%" in line]
    assert told
    assert all(line.startswith("model slowly: ") for line in told)
    assert any("MB/s, about" in line and line.endswith("left") for line in told), told
    assert [share(line) for line in told] == sorted(share(line) for line in told)


def test_a_controller_that_is_killed_has_its_download_ended(cpu1, tmp_path):
    with fetching(tmp_path, snapshot("killed", git("/fault/calm"))) as run:
        for line in run.stdout:
            if heard(line) and share(line):
                break
        run.kill()
        # The worker notices that its parent has gone.
        wait_until(lambda: cpu1.run(LEFT).stdout == "")
