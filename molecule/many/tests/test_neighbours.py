"""What happens to one of six instances is nothing to the others."""

import time

import pytest
from conftest import NAMES

from tests.instances import wait_for


@pytest.fixture
def before(instances):
    """The processes of all, which answer; no start is counted against any."""
    for one in instances.values():
        one.systemctl("reset-failed")
        one.ready(60)
    return {name: one.processes() for name, one in instances.items()}


def unchanged(instances, before, *but):
    """Whether all the others are the processes that they were."""
    names = [name for name in NAMES if name not in but]
    now = {name: instances[name].processes() for name in names}
    return now == {name: before[name] for name in names}


def test_one_that_is_killed_comes_back_alone(instances, before):
    one = instances["two"]
    one.host.check_output(f"kill -KILL {one.shown('MainPID')}")
    wait_for(lambda: one.processes() and one.shown("NRestarts") == "1", 30)
    one.ready(30)
    assert not set(one.processes()) & set(before["two"])
    assert unchanged(instances, before, "two")


def test_one_that_fails_again_and_again_ends_as_failed_and_says_so(instances, before):
    one = instances["three"]
    folder = f"/run/systemd/system/{one.unit}.d"
    lines = r"[Service]\nExecStart=\nExecStart=/usr/bin/false\n"
    one.host.check_output(f"mkdir -p {folder} && printf '{lines}' > {folder}/fails.conf")
    try:
        one.host.check_output("systemctl daemon-reload")
        one.systemctl("restart")
        wait_for(lambda: one.shown("ActiveState") == "failed", 90)
        status = one.systemctl("status --no-pager")
        assert "Start request repeated too quickly" in status
        assert "failed (Result: exit-code)" in status
        time.sleep(8)
        assert one.shown("ActiveState") == "failed"
        answer = one.ask()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    finally:
        one.host.run(f"rm -r {folder}; systemctl daemon-reload")
        one.systemctl("reset-failed")
        one.systemctl("start")
    one.ready(30)
    assert unchanged(instances, before, "three")


def test_it_waits_for_where_its_files_lie(instances):
    needs = instances["one"].shown("RequiresMountsFor").split()
    assert {"/opt/vllm/current", "/opt/vllm/releases", "/srv/models", "/var/cache/vllm"} <= set(
        needs
    )
    after = instances["one"].shown("After").split()
    assert {"network.target", "nginx.service"} <= set(after)


def test_one_that_changes_and_two_that_go_are_nothing_to_the_others(run, instances, before):
    words = run.words["vllm_instances"][:4]
    changed = [{**one, "max_model_len": 512} if one["name"] == "four" else one for one in words]
    run.again("-vvvv", "--diff", instances=changed)
    assert unchanged(instances, before, "four", "five", "six")
    assert not set(instances["four"].processes()) & set(before["four"])
    (model,) = instances["four"].client.get("/v1/models").json()["data"]
    assert model["max_model_len"] == 512
    for name in ("five", "six"):
        assert instances[name].processes() == {}
        assert instances[name].health() == 0
    places = "/etc/vllm/X.* /etc/systemd/system/vllm@X* /run/vllm/X"
    gone = " ".join(places.replace("X", name) for name in ("five", "six"))
    assert instances["one"].host.run(f"ls -d {gone}").stdout == ""
