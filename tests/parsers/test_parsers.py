"""Each vLLM version's own argument parser takes what the plan says, and as it was meant."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from packaging.version import Version

from tests.parsers.cases import CASES, Case, data_for, line, one, plan
from tests.parsers.environment import PARSERS, EnvironmentFailedError, Parser, run
from vllm_ansible.plan import PlanError

if TYPE_CHECKING:
    from vllm_ansible.plan.result import InstancePlan

ASK = Path(__file__).with_name("ask.py")
WRONG = Case("an option that no version has", one("qwen2.5-0.5b-instruct", extra_args={"x-no": 1}))


def asked(version: str) -> list[tuple[str, Case]]:
    """The questions for a version: device and case."""
    devices = data_for(version).versions.vllm[version].devices
    return [
        (device, case)
        for case in [*CASES, WRONG]
        for device in devices
        if device in case.devices and Version(version) >= Version(case.since)
    ]


Heard = tuple[list[str], list[tuple["InstancePlan", dict[str, Any]]]]


def heard(parser: Parser) -> Heard:
    """The options that a version's parser has, and its answers; asked once, in one process."""
    found = _heard(parser)
    if isinstance(found, EnvironmentFailedError):
        raise found
    return found


@cache
def _heard(parser: Parser) -> Heard | EnvironmentFailedError:
    try:
        return _ask(parser)
    except EnvironmentFailedError as error:
        # Kept as well: what takes a minute to fail is not tried again for each question.
        return error


def _ask(parser: Parser) -> Heard:
    parser.make()
    plans = [plan(parser.version, device, case.instance) for device, case in asked(parser.version)]
    with TemporaryDirectory() as name:
        folder = Path(name)
        lines = [line(instance, folder, n) for n, instance in enumerate(plans)]
        (folder / "asked.json").write_text(json.dumps(lines), "utf-8")
        run(str(parser.python), str(ASK), str(folder / "asked.json"), str(folder / "heard.json"))
        options, answers = json.loads((folder / "heard.json").read_text("utf-8"))
    return options, list(zip(plans, answers, strict=True))


QUESTIONS = [
    pytest.param(parser, number, id=f"{parser.version}, {device}: {case.name}")
    for parser in PARSERS
    for number, (device, case) in enumerate(asked(parser.version))
    if case is not WRONG
]


@pytest.mark.parametrize(("parser", "number"), QUESTIONS)
def test_the_parser_takes_what_the_plan_says_and_as_it_was_meant(parser, number):
    options, answers = heard(parser)
    instance, answer = answers[number]
    assert answer["error"] is None
    for flag, value in instance.config.items():
        # An abbreviation is taken too, and means another option one day.
        assert f"--{flag}" in options
        assert same(answer["values"][flag.replace("-", "_")], value), flag


# What `--max-model-len auto` is read as.
LONGEST = -1


def same(got: Any, meant: Any) -> bool:
    """Whether a parser understood a value: as it is, as text, or as JSON."""
    if got == meant or str(got) == str(meant) or (meant, got) == ("auto", LONGEST):
        return True
    if isinstance(meant, str) and meant.startswith("{"):
        return all(same((got or {}).get(name), value) for name, value in json.loads(meant).items())
    if isinstance(meant, str) and "=" in meant:
        name, _, value = meant.partition("=")
        return same(got.get(name), value)
    return False


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.version)
def test_an_option_that_a_version_has_not_is_refused_by_its_parser(parser):
    """Without this the test above would prove nothing."""
    options, answers = heard(parser)
    wrong = [
        a for (_, case), (_, a) in zip(asked(parser.version), answers, strict=True) if case is WRONG
    ]
    assert wrong
    for answer in wrong:
        assert "unrecognized arguments: --x-no" in answer["error"]
    assert "--x-no" not in options


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.version)
def test_what_the_data_say_of_each_option_is_so(parser):
    versions = data_for(parser.version).versions
    options, _ = heard(parser)
    said = {flag: versions.knows_flag(parser.version, flag) for flag in versions.flags}
    assert said == {flag: f"--{flag}" in options for flag in said}


REFUSED = [
    pytest.param(parser.version, case, id=f"{parser.version}: {case.name}")
    for parser in PARSERS
    for case in CASES
    if Version(parser.version) < Version(case.since) and "extra_args" not in case.instance
]


@pytest.mark.parametrize(("version", "case"), REFUSED)
def test_what_a_version_cannot_do_is_refused_by_the_plan(version, case):
    with pytest.raises(PlanError):
        plan(version, data_for(version).versions.vllm[version].devices[-1], case.instance)
