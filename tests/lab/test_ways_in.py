"""The four ways in that users were promised, on the lab with the real engine and model."""

import json
import re
from pathlib import Path

import pytest

from tests.lab.conftest import PROJECT, on_host, run
from vllm_ansible import ProvisionError, TaskEvent, provision

pytestmark = pytest.mark.lab
UNIT = "vllm@smollm2-135m.service"
URL = "http://10.97.53.11:8000/v1"
MODEL = ["--model", "smollm2-135m-instruct"]
QUESTION = "Name the capital of France."


def lines(*words):
    """Lines that a program prints."""
    return run(*words).stdout.splitlines()


def changed_by_host(output):
    """Read Ansible's recap: {host: number of changes}."""
    found = re.findall(r"^(\S+)\s+: ok=.*changed=(\d+)", output, re.MULTILINE)
    return {host: int(count) for host, count in found}


def test_check_mode_on_a_new_machine_runs_through_and_changes_nothing(check_run):
    done, before, after = check_run
    assert done.returncode == 0, done.stdout
    assert changed_by_host(done.stdout)["cpu1"] > 10
    assert "/opt/miniconda3" in done.stdout
    assert "/etc/passwd" in before
    assert after == before


def test_lab_up_ends_with_the_models_answer(lab_up):
    assert lab_up.returncode == 0, lab_up.stdout + lab_up.stderr
    assert "Paris" in lab_up.stdout
    assert "tokens/s" in lab_up.stdout


def test_a_second_ansible_run_changes_nothing(lab_up):
    done = run("ansible-playbook", "site.yml", "-i", "inventories/lab")
    assert done.returncode == 0, done.stdout
    changes = changed_by_host(done.stdout)
    assert "cpu1" in changes
    assert set(changes.values()) == {0}
    assert "Paris" in done.stdout


def test_check_mode_on_a_finished_host_finds_nothing_to_do(lab_up):
    done = run("ansible-playbook", "site.yml", "-i", "inventories/lab", "--check", "--diff")
    assert done.returncode == 0, done.stdout
    assert set(changed_by_host(done.stdout).values()) == {0}


def test_the_program_prints_json_for_machines(lab_up):
    words = ("-i", "inventories/lab", "--limit", "cpu1", "--json")
    done = run("./scripts/provision", *words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    answer = result["hosts"]["cpu1"]["answers"][0]
    assert answer["instance"] == "smollm2-135m"
    assert "Paris" in answer["answer"]
    # Progress in plain lines, as stderr is no terminal. A host that is as planned is asked by Plan.
    assert "Plan: ok cpu1" in done.stderr


def test_python_gets_typed_results(lab_up):
    events: list[TaskEvent] = []
    result = provision(PROJECT / "inventories/lab", on_event=events.append)
    assert result.changed == 0
    assert result.hosts["cpu1"].stages["Plan"].ok >= 1
    assert "Serve" not in result.hosts["cpu1"].stages
    assert "Paris" in result.hosts["cpu1"].answers[0].answer
    assert any("known flaws" in notice for notice in result.notices)
    assert {event.kind for event in events} >= {"stage", "task", "ok"}


def test_python_gets_a_typed_error_with_host_task_and_message(lab_up):
    with pytest.raises(ProvisionError) as caught:
        provision(PROJECT / "inventories/lab", extra_vars={"vllm_engine": {"version": "9.9.9"}})
    assert caught.value.stage == "Validate"
    assert caught.value.task == "The inventory says only what it may"
    assert "9.9.9" in caught.value.message
    assert "0.31.0" in caught.value.message


CLIENTS = [
    ["bash", "scripts/examples/curl.sh", *MODEL, "chat"],
    ["bash", "scripts/examples/curl.sh", *MODEL, "stream"],
    ["python", "scripts/examples/requests_chat.py", "--temperature", "0"],
    ["python", "scripts/examples/openai_chat.py", "--temperature", "0"],
    ["python", "scripts/examples/openai_chat.py", "--temperature", "0", "--stream"],
]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda words: " ".join(words[1:]))
def test_the_tutorials_clients_are_answered(lab_up, tmp_path, client):
    key = tmp_path / "key"
    key.write_text(on_host("cat", "/etc/vllm/api_key").stdout)
    key.chmod(0o600)
    program, *rest = client[1:]
    asked = ["--url", URL, "--api-key-file", str(key), *rest, QUESTION]
    done = run(client[0], program, *asked, timeout=120)
    assert done.returncode == 0, done.stderr
    # curl's examples are sampled, as the tutorials' are: their words differ from run to run.
    assert ("Paris" if "--temperature" in rest else '"content"') in done.stdout


def test_the_chat_finds_address_and_key_by_itself(lab_up):
    words = ("-i", "inventories/lab", "--temperature", "0")
    done = run("./scripts/chat", *words, input=f"{QUESTION}\n", timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


def test_systemctl_and_journalctl_know_the_instance(lab_up):
    assert "active (running)" in on_host("systemctl", "status", "--no-pager", UNIT).stdout
    assert on_host("journalctl", "--no-pager", "-n", "5", "-u", UNIT).stdout.strip()
    assert on_host("systemctl", "stop", UNIT).returncode == 0
    assert on_host("systemctl", "is-active", UNIT).stdout.strip() in ("inactive", "failed")


def test_many_questions_are_answered_without_a_server(lab_up):
    """The tutorials' offline script, beside a service that is stopped (by the test before)."""
    script = (PROJECT / "scripts/examples/offline_batch.py").read_text()
    on_host("cat > /root/offline_batch.py", input=script)
    (model,) = on_host("ls -d /srv/models/smollm2-135m-instruct/*/").stdout.split()
    words = ["--model", model, "--temperature", "0", "--max-tokens", "32"]
    program = ["/opt/vllm/current/bin/python", "/root/offline_batch.py", *words]
    done = on_host(*program, input=f"{QUESTION}\nWhat is two and two?\n")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(answers) == 2
    assert "Paris" in json.dumps(answers[0])


def test_a_stopped_service_is_found_and_started_again(lab_up):
    """The receipt says that the unit runs; the host says that it does not: the chain repairs it."""
    done = run("ansible-playbook", "site.yml", "-i", "inventories/lab")
    assert done.returncode == 0, done.stdout
    assert changed_by_host(done.stdout)["cpu1"] > 0
    assert "Paris" in done.stdout


def test_the_first_play_boots_machines_that_do_not_run(lab_up):
    """Machines that were switched off come back with what was on them."""
    on_host("poweroff")
    done = run("ansible-playbook", "site.yml", "-i", "inventories/lab")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Paris" in done.stdout


def test_lab_down_leaves_nothing(lab_up):
    assert run("./scripts/lab", "down").returncode == 0
    shown = {
        "processes": run("pgrep", "-fa", "systemd-nspawn.*lab-").stdout,
        "links": [
            line for line in lines("ip", "-brief", "link") if line[:6] in ("vl-lab", "vb-lab")
        ],
        "mounts": [line for line in lines("findmnt", "-rn") if "/var/lib/vllm-lab/lab" in line],
        "tables": [line for line in lines("nft", "list", "tables") if line.endswith(" vllm_lab")],
        "state": list(Path("/var/lib/vllm-lab").glob("lab")),
    }
    assert not any(shown.values()), shown
