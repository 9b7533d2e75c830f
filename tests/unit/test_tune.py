"""Tuning: what is tried, what counts as better, and where the words are written."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import yaml
from rich.console import Console

from vllm_ansible.bench import tune
from vllm_ansible.bench.tune import Candidate, Found, Search, TuneError, best
from vllm_ansible.cli.tune import print_found
from vllm_ansible.data import project_data
from vllm_ansible.inventory import facts_file
from vllm_ansible.paths import PROJECT
from vllm_ansible.plan import HostFacts, PlanError
from vllm_ansible.provisioning import TaskEvent
from vllm_ansible.schema import check_host

if TYPE_CHECKING:
    from vllm_ansible.plan.result import InstancePlan

FACTS = json.loads((PROJECT / "tests/unit/facts/cpu-16-cores-avx512.json").read_text("utf-8"))
COMPILED = {"compile": True}
INSTANCE = {"name": "a", "model": "qwen2.5-0.5b-instruct"}


@pytest.fixture
def inventory(tmp_path, monkeypatch):
    """An inventory of one host that has been asked what it is."""
    monkeypatch.setattr("vllm_ansible.paths.CACHE", tmp_path / "cache")
    folder = tmp_path / "inventory"
    (folder / "group_vars").mkdir(parents=True)
    (folder / "hosts.yml").write_text(yaml.safe_dump({"vllm": {"hosts": {"h": None}}}))
    (folder / "group_vars/vllm.yml").write_text(yaml.safe_dump({"vllm_instances": [INSTANCE]}))
    file = facts_file(str(folder), "h")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(FACTS))
    return folder


def test_the_task_that_measures_has_the_name_that_is_looked_for():
    play = yaml.safe_load((PROJECT / "playbooks/tune.yml").read_text("utf-8"))
    assert tune.MEASURED in json.dumps(play)


def found(label="x", rates=None, problem="", words=None):
    # What is compared are figures; the plan of each is not looked at.
    candidate = Candidate(label, words or {}, cast("InstancePlan", None))
    return Found(candidate, problem, rates=rates if rates is not None else {1: 50.0, 16: 400.0})


def test_what_is_tried_is_planned_and_never_twice_the_same(inventory):
    host, tried = tune.candidates(Search(inventory, "h", None, [1], instead=False))
    assert (host, tried[0].label) == ("h", "as it is")
    assert (tried[-1].label, tried[-1].instance) == ("as it is, again", tried[0].instance)
    plans = [json.dumps([one.instance.config, one.instance.environment]) for one in tried[:-1]]
    assert len(plans) == len(set(plans)) > 3
    sizes = {one.label: one.instance.config.get("max-num-batched-tokens") for one in tried}
    assert sizes["max_num_batched_tokens: 512"] == 512


def test_what_a_setting_needs_and_the_inventory_says_otherwise_is_known(inventory):
    words = {**INSTANCE, "compile": False, "extra_args": {"max_num_batched_tokens": 1024}}
    (inventory / "group_vars/vllm.yml").write_text(yaml.safe_dump({"vllm_instances": [words]}))
    _, tried = tune.candidates(Search(inventory, "h", None, [1], instead=False))
    by_label = {one.label: one for one in tried}
    assert "g++" in by_label["compile: true"].os_packages
    assert "g++" not in by_label["as it is"].os_packages
    assert not by_label["as it is"].against
    assert by_label["compile: true"].against == ["compile: false"]
    assert by_label["max_num_batched_tokens: 512"].against == ["max_num_batched_tokens: 1024"]


def test_each_setting_is_told_as_it_is_measured(inventory, monkeypatch):
    host, tried = tune.candidates(Search(inventory, "h", None, [1], instead=False))
    figures = {"problem": "it ended", "start_s": 0, "memory_mib": 0, "loads": []}

    def provision(*_, on_event, extra_vars, **__):
        on_event(TaskEvent("task", "Tune", tune.MEASURED, "", 1.0))
        for _candidate in tried:
            on_event(TaskEvent("item", "Tune", tune.MEASURED, host, 2.0))
        Path(extra_vars["tune_result"]).write_text(json.dumps([figures] * len(tried)))

    monkeypatch.setattr(tune, "provision", provision)
    told: list[TaskEvent] = []
    search = Search(inventory, "h", None, [1], instead=False)
    assert len(tune.search_host(search, tried, told.append)) == len(tried)
    said = [(one.host, one.message) for one in told if one.kind == "progress"]
    count = len(tried)
    assert said == [("h", f"{n} of {count}: {one.label}") for n, one in enumerate(tried, 1)]


def test_neighbours_keep_their_cores():
    facts = HostFacts.model_validate(FACTS)
    assert not [one for one in tune.space(facts, 1) if "cores" in one]
    assert [one["cores"] for one in tune.space(facts, 0) if "cores" in one] == [15, 16]


def test_a_host_that_is_not_known_yet_is_told(inventory):
    facts_file(str(inventory), "h").unlink()
    with pytest.raises(TuneError, match=r"run site\.yml first"):
        tune.candidates(Search(inventory, "h", None, [1], instead=False))


def test_a_host_that_cannot_be_planned_is_told(inventory, monkeypatch):
    def refuse(*_, **__):
        raise PlanError("h", ["it is too small"])

    monkeypatch.setattr(tune, "plan_host", refuse)
    with pytest.raises(TuneError, match=r"h cannot be planned as it is; why: \./scripts/plan"):
        tune.candidates(Search(inventory, "h", None, [1], instead=False))


def test_an_instance_that_the_host_has_not_is_told(inventory):
    with pytest.raises(TuneError, match="instances a: name one"):
        tune.candidates(Search(inventory, "h", "b", [1], instead=False))


@pytest.mark.parametrize(
    ("rates", "wins"),
    [
        ({1: 51.0, 16: 404.0}, False),  # 1.5 %
        ({1: 55.0, 16: 400.0}, True),
        ({1: 70.0, 16: 280.0}, False),  # what one gains the others lose
    ],
)
def test_a_setting_wins_by_the_mean_of_its_loads_and_by_enough(rates, wins):
    base, other = found(), found(rates=rates, words=COMPILED)
    assert (best([base, other]) is other) == wins


def test_a_setting_that_does_not_run_never_wins():
    base, broken = found(), found(rates={}, problem="it ended", words=COMPILED)
    assert best([base, broken]) is base
    assert best([broken, base]) is base


def test_the_table_names_the_best_and_why_a_setting_does_not_run():
    base = found("as it is")
    good = found("compile: true", rates={1: 60.0, 16: 480.0}, words=COMPILED)
    said = "vllm ended after 9 s: ValueError: no such size\nIt said last:\nRuntimeError: x"
    out = io.StringIO()
    shown = [base, good, found("cores: 3", rates={}, problem=said)]
    print_found(Console(file=out, width=160), shown, best(shown))
    text = out.getvalue()
    assert "1.20" in text
    assert "best" in text
    assert "cores: 3 does not run: vllm ended after 9 s: ValueError: no such size\n" in text


def test_what_is_within_the_noise_of_the_host_is_not_found():
    base, good = found("as it is"), found(rates={1: 60.0, 16: 480.0}, words=COMPILED)
    again = found("as it is, again", rates={1: 59.0, 16: 470.0})
    assert best([base, good, again]) is base
    out = io.StringIO()
    print_found(Console(file=out, width=160), [base, good, again], base)
    assert "what is there gave 1.18 times as much at one try as at the other" in out.getvalue()


def test_words_are_added_to_those_that_were_found_before(tmp_path):
    file = tmp_path / "tuned.yml"
    _, text = tune.changed_file(file, "a", {"compile": True})
    file.write_text(text)
    _, text = tune.changed_file(file, "a", {"extra_args": {"max_num_seqs": 8}})
    said = yaml.safe_load(text)["vllm_tuned"]
    assert said == {"a": {"compile": True, "extra_args": {"max_num_seqs": 8}}}


def test_nothing_better_changes_no_file(tmp_path):
    assert tune.changed_file(tmp_path / "tuned.yml", "a", {}) == ("", "")


def test_a_file_that_ansible_would_no_longer_read_is_not_shadowed(inventory):
    assert tune.words_file(inventory, "h") == inventory / "host_vars/h/tuned.yml"
    (inventory / "host_vars").mkdir()
    (inventory / "host_vars/h.yml").write_text("{}\n")
    with pytest.raises(TuneError, match="move it to"):
        tune.words_file(inventory, "h")


# -- the words --------------------------------------------------------------------------------


def checked(tuned, **instance):
    variables = {"vllm_instances": [{**INSTANCE, **instance}], "vllm_tuned": tuned}
    return check_host("h", variables, project_data())


def test_found_words_count_where_the_instance_does_not_say_them():
    tuned = {"a": {"compile": True, "extra_args": {"max_num_seqs": 8, "block_size": 64}}}
    words = checked(tuned, extra_args={"max_num_seqs": 4}).words
    assert words.instances[0].compile
    assert words.instances[0].extra_args == {"max_num_seqs": 4, "block_size": 64}
    assert not checked(tuned, compile=False).words.instances[0].compile


@pytest.mark.parametrize(
    ("tuned", "variable", "allowed"),
    [
        ({"b": {}}, "vllm_tuned.b", "an instance of the host, a"),
        ({"a": {"port": 1}}, "vllm_tuned.a.port", "known: compile, cores"),
        ({"a": {"cores": 0}}, "vllm_tuned.a.cores", "greater than or equal to 1"),
        ({"a": {"extra_args": {"dtype": "auto"}}}, "vllm_tuned.a.extra_args.dtype", "not here"),
        ([], "vllm_tuned", "a mapping"),
    ],
)
def test_wrong_words_are_refused_by_name(tuned, variable, allowed):
    problems = checked(tuned).problems
    assert [one.variable for one in problems] == [variable]
    assert allowed in problems[0].allowed
