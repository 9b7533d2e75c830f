"""Events of ansible-runner become typed results; failures become typed errors."""

import json
import subprocess
import sys

import pytest
from rich.console import Console

from vllm_ansible.cli.progress import clock, watcher
from vllm_ansible.cli.summary import print_failure, print_summary
from vllm_ansible.paths import PROJECT
from vllm_ansible.provisioning import Failure, ProvisionError, ProvisionResult, TaskEvent, provision
from vllm_ansible.provisioning.collect import Collector


def play(name):
    return {"event": "playbook_on_play_start", "event_data": {"name": name}}


def outcome(kind, host="h1", task="t", action="command", duration=0.5, **res):
    data = {"host": host, "task": task, "task_action": action, "duration": duration, "res": res}
    return {"event": f"runner_on_{kind}", "event_data": data}


@pytest.fixture
def collector():
    return Collector(check=False, notify=lambda *_: None)


def test_counts_stand_per_host_and_stage(collector):
    for event in (
        play("Engine"),
        outcome("ok", changed=True),
        outcome("ok", changed=False),
        outcome("skipped"),
        play("Serve"),
        outcome("ok", host="h2", changed=True),
        {"event": "playbook_on_stats", "event_data": {"changed": {"h1": 3, "h2": 1}}},
    ):
        collector.handle(event)
    result = collector.finish()
    engine = result.hosts["h1"].stages["Engine"]
    assert (engine.ok, engine.changed, engine.skipped, engine.failed) == (1, 1, 1, 0)
    assert engine.seconds == 1.5
    # Ansible's own count has the tasks whose results are hidden, as they handle secrets.
    assert result.hosts["h1"].changed == 3
    assert result.changed == 4
    assert list(result.stages) == ["Engine", "Serve"]


def test_a_failure_keeps_host_stage_task_and_words(collector):
    collector.handle(play("Models"))
    collector.handle(outcome("failed", task="The snapshot is here", msg="disk full", stderr="why"))
    collector.handle(outcome("unreachable", host="h2", msg="no route"))
    assert collector.failures == [
        Failure(host="h1", stage="Models", task="The snapshot is here", message="disk full\nwhy"),
        Failure(host="h2", stage="Models", task="t", message="no route", unreachable=True),
    ]


def test_a_failed_item_of_a_loop_speaks_for_the_task(collector):
    collector.handle(play("Models"))
    items = [{"failed": False, "msg": "fine"}, {"failed": True, "msg": "stub"}]
    collector.handle(outcome("failed", msg="One or more items failed", results=items))
    assert collector.failures[0].message == "stub"


def test_answers_carry_the_seconds_to_ready(collector):
    collector.handle(play("Verify"))
    collector.handle(outcome("ok", action="instance_ready", unit="vllm@chat.service", seconds=45.2))
    answer = {
        "base_url": "http://192.0.2.7:8000/v1",
        "model": "m",
        "question": "q",
        "answer": "a",
        "tokens_per_second": 50.0,
        "time_to_first_token": 0.1,
        "item": {"name": "chat"},
    }
    event = outcome("ok", action="openai_probe", **answer)
    collector.handle({**event, "event": "runner_item_on_ok"})
    found = collector.finish().hosts["h1"].answers[0]
    assert (found.instance, found.answer, found.ready_seconds) == ("chat", "a", 45.2)
    assert found.speed == "50.0 tokens/s, first token after 0.10 s"


def test_vectors_have_no_speed_in_tokens(collector):
    collector.handle(play("Verify"))
    answer = {"base_url": "u", "model": "m", "answer": "a vector of 128 numbers"}
    unmeasured = dict.fromkeys(("tokens_per_second", "time_to_first_token"))
    event = outcome("ok", action="openai_probe", **answer, **unmeasured)
    collector.handle({**event, "event": "runner_item_on_ok"})
    assert "not measured" in collector.finish().hosts["h1"].answers[0].speed


def test_the_plans_notices_reach_the_result(collector):
    collector.handle(play("Plan"))
    collector.handle(outcome("ok", action="host_plan", notices=["torch from elsewhere"]))
    assert collector.finish().notices == ["h1: torch from elsewhere"]


def test_a_host_that_needs_nothing_has_answered_in_its_plan(collector):
    collector.handle(play("Plan"))
    answer = {"name": "chat", "base_url": "u", "model": "m", "question": "q", "answer": "Paris."}
    collector.handle(
        outcome("ok", action="host_plan", answers=[answer, {"name": "b", "error": ""}])
    )
    (found,) = collector.finish().hosts["h1"].answers
    assert (found.instance, found.answer, found.ready_seconds) == ("chat", "Paris.", None)
    assert "not measured" in found.speed


def test_what_differed_before_the_run_reaches_the_result(collector):
    difference = {"kind": "link", "subject": "/a", "expected": "b", "found": "c"}
    collector.handle(play("Plan"))
    receipt = {"differences": [difference]}
    collector.handle(outcome("ok", action="host_plan", receipt=receipt))
    assert collector.finish().hosts["h1"].differences == [difference]


def test_the_error_names_the_first_failure():
    failure = Failure(host="h1", stage="Serve", task="It answers", message="exit 31")
    error = ProvisionError("exit 31", [failure], ProvisionResult())
    assert str(error) == "h1: Serve: It answers: exit 31"
    assert (error.host, error.stage, error.task) == ("h1", "Serve", "It answers")


def test_a_run_that_cannot_start_says_why(tmp_path):
    with pytest.raises(ProvisionError, match="no-such-playbook"):
        provision(tmp_path, playbook=tmp_path / "no-such-playbook.yml")


def test_a_real_run_is_collected(tmp_path):
    """ansible-runner itself, on this machine: one change, one failure."""
    book = tmp_path / "book.yml"
    tasks = [
        {"name": "Say", "ansible.builtin.command": {"argv": ["true"]}},
        {"name": "Refuse", "ansible.builtin.fail": {"msg": "as asked"}},
    ]
    book.write_text(
        json.dumps([{"name": "Only", "hosts": "here", "gather_facts": False, "tasks": tasks}])
    )
    inventory = tmp_path / "hosts.ini"
    inventory.write_text(
        f"here ansible_connection=local ansible_python_interpreter={sys.executable}\n"
    )
    with pytest.raises(ProvisionError) as caught:
        provision(inventory, playbook=book)
    error = caught.value
    assert (error.host, error.stage, error.task) == ("here", "Only", "Refuse")
    assert error.message == "as asked"
    assert error.result.hosts["here"].stages["Only"].changed == 1
    assert error.result.changed == 1


def test_plain_lines_where_there_is_no_terminal():
    console = Console(file=None, record=True, width=200, force_terminal=False)
    found = Collector(check=False, notify=lambda *_: None)
    with console.capture() as captured, watcher(console) as on_event:
        on_event(TaskEvent("stage", "Engine", "", "", 0.0))
        on_event(TaskEvent("task", "Engine", "Conda", "", 1.0))
        on_event(TaskEvent("changed", "Engine", "Conda", "h1", 61.0))
    assert captured.get().splitlines() == [
        "  0:00 Engine: stage",
        "  1:01 Engine: changed h1: Conda",
    ]
    assert found.failures == []


def test_clock():
    assert [clock(value) for value in (0, 59.9, 60, 3671)] == ["0:00", "0:59", "1:00", "61:11"]


def test_summary_and_failures_are_printed():
    console = Console(width=120, record=True, force_terminal=False)
    with console.capture() as captured:
        print_summary(console, ProvisionResult(stages={"Engine": 12.3}, notices=["h1: torch"]))
        failure = Failure(host="h1", stage="S", task="T", message="[not markup]")
        print_failure(console, ProvisionError("m", [failure], ProvisionResult()))
    text = captured.get()
    for wanted in ("Engine", "12.3", "notice h1: torch", "failed h1  S: T", "[not markup]"):
        assert wanted in text


def test_the_program_says_which_inventory_is_missing():
    done = subprocess.run(
        [sys.executable, "-m", "vllm_ansible.cli.provision", "-i", "no/such"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no/such does not exist" in done.stderr


def test_an_engine_asked_at_its_socket_is_no_answer_for_users(collector):
    collector.handle(play("Serve"))
    answer = {"base_url": "/run/vllm/a/api.sock", "model": "m", "answer": "Paris."}
    collector.handle(outcome("ok", action="openai_probe", **answer))
    assert collector.finish().hosts["h1"].answers == []
