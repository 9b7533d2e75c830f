"""What happens to one instance, and what becomes of its neighbour.

In this order: the last ones change the server.
"""

import time

import httpx
import pytest
import yaml
from conftest import INVENTORY

from tests.instances import MOST_EXPOSED, Answer, exposure, play, tokens_within, wait_for

# What is killed: the API server, the engine's core, its worker.
PROCESSES = ["vllm serve", "VLLM::EngineCore", "VLLM::Worker"]
# As the template has it, in seconds.
DRAIN, STOP = 30, 60


def test_each_has_cores_and_memory_of_its_own(chat, vectors):
    bound = {
        line
        for one in (chat, vectors)
        for line in one.host.file(f"/etc/vllm/{one.name}.env").content_string.splitlines()
        if line.startswith("VLLM_CPU_OMP_THREADS_BIND=")
    }
    assert len(bound) == 2 or bound == {'VLLM_CPU_OMP_THREADS_BIND="nobind"'}
    total = int(chat.host.check_output("awk '/MemTotal/{print $2 * 1024}' /proc/meminfo"))
    assert all(int(one.shown("MemoryMax")) < total for one in (chat, vectors))


@pytest.mark.usefixtures("quiet")
def test_each_is_well_hardened_while_it_answers(chat, vectors):
    answer = Answer(chat, 200)
    found = [exposure(one.host, one.unit) for one in (chat, vectors)]
    assert answer.is_alive(), "the answer was too short for this test"
    for figure, offenders in found:
        assert figure <= MOST_EXPOSED, offenders


@pytest.mark.parametrize("who", PROCESSES)
def test_a_killed_process_is_an_instance_that_comes_back(chat, vectors, quiet, figure, who):
    old = chat.processes()
    began = time.monotonic()
    chat.host.check_output(f"kill -KILL {chat.pid_of(who)}")
    wait_for(lambda: chat.health() != httpx.codes.OK, 60, pause=0.1)
    chat.ready()
    figure(f"killed {who}: answers again after {time.monotonic() - began:.0f} s")
    assert chat.ask().status_code == httpx.codes.OK
    assert chat.shown("NRestarts") == "1"
    # Nothing of the old one is left: no process, wherever it may have gone, and no shared memory.
    mine = {pid for pid, _ in {**chat.processes(), **vectors.processes()}}
    assert {int(pid) for pid in chat.host.check_output("ps -o pid= -u vllm").split()} == mine
    assert not set(old) & set(chat.processes())
    assert chat.host.check_output("find /dev/shm -user vllm") == ""
    assert vectors.processes() == quiet


def test_an_answer_is_finished_before_the_service_stops(chat, vectors, quiet):
    answer = Answer(chat, tokens_within(chat, DRAIN / 3))
    chat.systemctl("stop --no-block")
    wait_for(lambda: chat.health() != httpx.codes.OK, 10, pause=0.05)
    refused = chat.ask()
    assert answer.is_alive(), "the answer was too short for this test"
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    assert refused.json()["error"]["code"] == "engine_unavailable"
    answer.join(DRAIN)
    assert answer.whole, str(answer)
    wait_for(lambda: chat.shown("ActiveState") == "inactive", STOP)
    assert chat.shown("Result") == "success"
    assert vectors.processes() == quiet
    chat.systemctl("start")
    chat.ready()


@pytest.mark.usefixtures("quiet")
def test_a_stop_waits_for_no_answer_for_ever(chat, figure):
    answer = Answer(chat, 2000)
    began = time.monotonic()
    chat.systemctl("stop")
    seconds = time.monotonic() - began
    figure(f"stopped while 2000 tokens were being said: {seconds:.0f} s, {answer}")
    assert seconds < STOP
    assert chat.shown("Result") == "success"
    chat.systemctl("start")
    chat.ready()


def test_an_engine_that_hangs_says_that_it_is_well_and_a_restart_ends_it(
    chat, vectors, quiet, figure
):
    old = chat.processes()
    chat.host.check_output(f"kill -STOP {chat.pid_of('VLLM::EngineCore')}")
    with pytest.raises(httpx.ReadTimeout):
        chat.client.post("/v1/completions", json={"model": chat.model, "prompt": "a"}, timeout=5)
    assert chat.health() == httpx.codes.OK
    began = time.monotonic()
    chat.systemctl("restart")
    figure(f"an engine that hung was ended in {time.monotonic() - began:.0f} s")
    chat.ready()
    assert not set(old) & set(chat.processes())
    assert vectors.processes() == quiet


@pytest.mark.usefixtures("quiet")
def test_at_a_reboot_answers_are_finished_and_all_come_back(chat, vectors, figure):
    before = booted(chat)
    answer = Answer(chat, tokens_within(chat, DRAIN / 3))
    began = time.monotonic()
    chat.host.run("systemctl reboot --no-block")
    answer.join(DRAIN)
    assert answer.whole, str(answer)
    wait_for(lambda: booted(chat) not in {"", before}, STOP)
    chat.ready()
    vectors.ready()
    figure(f"both answer {time.monotonic() - began:.0f} s after a reboot was asked for")
    assert chat.ask().status_code == vectors.ask().status_code == httpx.codes.OK


def booted(one):
    """When the machine was started; empty while it cannot be asked.

    A look at its door can miss that it was away: a container is back within half a second.
    """
    try:
        return one.host.check_output("ps -o lstart= -p 1")
    except RuntimeError:  # SSH could not reach it.
        return ""


def words():
    """What the inventory says of the instances."""
    text = (INVENTORY / "group_vars" / "vllm" / "multi.yml").read_text()
    return yaml.safe_load(text)["vllm_instances"]


def test_one_that_changes_is_restarted_alone(chat, vectors, quiet):
    before = chat.processes()
    one, other = words()
    play(
        "site.yml", INVENTORY, variables={"vllm_instances": [{**one, "max_model_len": 1024}, other]}
    )
    assert not set(chat.processes()) & set(before)
    assert vectors.processes() == quiet
    (model,) = chat.client.get("/v1/models").json()["data"]
    assert model["max_model_len"] == 1024


def test_one_that_goes_leaves_its_neighbour_alone(chat, vectors, quiet):
    _, other = words()
    before = settings(vectors)
    play("site.yml", INVENTORY, variables={"vllm_instances": [other]})
    assert vectors.ask().status_code == httpx.codes.OK
    assert chat.processes() == {}
    assert chat.health() == 0
    left = chat.host.run("ls -d /etc/vllm/chat.* /etc/systemd/system/vllm@chat* /run/vllm/chat")
    assert left.stdout == ""
    # Cores that nobody has asked for fall to who stays, and it is restarted for them alone.
    assert (vectors.processes() == quiet) == (settings(vectors) == before)


def settings(one):
    """What an instance is started with."""
    return one.host.check_output(f"sha256sum /etc/vllm/{one.name}.*")
