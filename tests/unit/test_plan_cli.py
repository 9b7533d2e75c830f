"""The program `scripts/plan`: what it prints, what it keeps to itself, how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vllm_ansible import paths
from vllm_ansible.cli.plan import app, shown_plan
from vllm_ansible.data import project_data
from vllm_ansible.inventory import facts_file
from vllm_ansible.plan import HostFacts, plan_host
from vllm_ansible.schema import check_host

RECORD = Path(__file__).parent / "facts" / "cpu-16-cores-avx512.json"


@pytest.fixture
def inventory(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    text = "vllm: {hosts: {one: {}}, vars: {vllm_instances: [{name: a, model: MODEL}]}}\n"
    file = tmp_path / "hosts.yml"
    file.write_text(text.replace("MODEL", "qwen2.5-0.5b-instruct"), "utf-8")
    return file


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_decisions_are_printed_with_their_reasons_and_assumptions_are_marked(inventory):
    result = run("-i", str(inventory))
    assert result.exit_code == 0
    assert "one  (assumed: 2 cores, 16 GiB" in result.stdout
    assert "the host has no NVIDIA GPU" in result.stdout
    assert "everything would be done" in result.stdout


def test_facts_may_be_given_or_are_what_the_host_last_said(inventory):
    given = run("-i", str(inventory), "--facts", str(RECORD), "--json")
    file = facts_file(str(inventory), "one")
    file.parent.mkdir(parents=True)
    file.write_text(RECORD.read_text("utf-8"), "utf-8")
    remembered = run("-i", str(inventory), "--json")
    (first,), (second,) = (json.loads(one.stdout)["hosts"] for one in (given, remembered))
    assert first["plan"] == second["plan"]
    assert second["facts"] == "what the host last said"


def test_every_error_is_told_and_the_end_is_1(inventory):
    text = inventory.read_text("utf-8").replace("qwen2.5-0.5b", "qwen").replace("a,", "A,")
    inventory.write_text(text, "utf-8")
    result = run("-i", str(inventory), "--json")
    assert result.exit_code == 1
    errors = json.loads(result.stdout)["errors"]
    assert [line.split(": ")[1] for line in errors] == [
        "vllm_instances[0].model",
        "vllm_instances[0].name",
    ]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["-i", "/nowhere"], 1), (["--facts", "/nowhere"], 2), (["--nonsense"], 2)],
)
def test_exit_status(inventory, arguments, status):
    words = arguments if "-i" in arguments else ["-i", str(inventory), *arguments]
    assert run(*words).exit_code == status


def test_a_secret_among_the_options_is_not_shown():
    instance = {"name": "a", "model": "qwen2.5-0.5b-instruct", "extra_args": {"hf-token": "s3"}}
    sealed = ["vllm_instances[0].extra_args.hf-token"]
    words = check_host("h", {"vllm_instances": [instance]}, project_data(), sealed).words
    assert words is not None
    plan = plan_host(
        words, HostFacts.model_validate(json.loads(RECORD.read_text())), project_data()
    )
    shown = shown_plan(plan)
    assert shown["instances"][0]["config"]["hf-token"] == "(secret)"
    assert "s3" not in json.dumps(shown)


def test_a_secret_of_the_environment_is_not_shown():
    instance = {"name": "a", "model": "qwen2.5-0.5b-instruct", "env": {"HF_TOKEN": "hunter2"}}
    sealed = ["vllm_instances[0].env.HF_TOKEN"]
    words = check_host("h", {"vllm_instances": [instance]}, project_data(), sealed).words
    assert words is not None
    facts = HostFacts.model_validate(json.loads(RECORD.read_text("utf-8")))
    plan = plan_host(words, facts, project_data())
    assert "hunter2" not in json.dumps(shown_plan(plan))
    assert plan.instances[0].environment["HF_TOKEN"] == "hunter2"  # noqa: S105  # the role needs it
