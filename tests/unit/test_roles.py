"""The roles' skeleton: specs, defaults and pages say the same; task files stay short."""

import re

import pytest
import yaml

from vllm_ansible.cli.role_docs import render
from vllm_ansible.paths import PROJECT
from vllm_ansible.plan.result import ModelSnapshot

ROLES = sorted(path.parent.parent for path in PROJECT.glob("roles/*/meta/main.yml"))


def load(path):
    return yaml.safe_load(path.read_text()) or {}


@pytest.fixture(params=ROLES, ids=lambda role: role.name)
def role(request):
    return request.param


def test_there_are_roles():
    assert len(ROLES) >= 7


def test_defaults_and_specs_agree(role):
    defaults = load(role / "defaults" / "main.yml")
    options = load(role / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    assert {name: words.get("default") for name, words in options.items()} == defaults


def test_variables_carry_the_roles_name(role):
    prefix = {"vllm": "vllm_release_", "lab_machine": "lab_"}.get(role.name, f"{role.name}_")
    names = load(role / "defaults" / "main.yml")
    assert [name for name in names if not name.startswith(prefix)] == []


def test_the_page_is_the_one_that_the_specs_give(role):
    assert (role / "README.md").read_text() == render(role), "run scripts/role-docs"


def test_the_main_task_file_only_routes(role):
    for task in load(role / "tasks" / "main.yml"):
        if role.name in ("os_packages", "python_env"):
            continue  # one verb: the file is the task
        routed = [key for key in task if re.search(r"(import|include)_(tasks|role)$", key)]
        assert routed, task["name"]


def test_task_files_stay_short(role):
    long = {
        str(path): lines
        for path in role.glob("tasks/*.yml")
        if (lines := len(path.read_text().splitlines())) > 75
    }
    assert long == {}


@pytest.mark.parametrize("role", ["model", "mirror"])
def test_the_roles_that_fetch_models_take_the_plans_snapshots_as_they_are(role):
    specs = yaml.safe_load((PROJECT / "roles" / role / "meta/argument_specs.yml").read_text())
    options = specs["argument_specs"]["main"]["options"][f"{role}_snapshots"]["options"]
    assert set(options) == set(ModelSnapshot.model_fields)


def _strings(value):
    """Yield all strings of a YAML document's value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


def test_a_group_of_a_pattern_is_written_with_one_backslash():
    # Two, as YAML's double quotes want them, stay two in a block, where they name no group.
    files = [*PROJECT.glob("roles/*/tasks/*.yml"), *PROJECT.glob("playbooks/**/*.yml")]
    assert files
    wrong = {
        str(file.relative_to(PROJECT))
        for file in files
        for text in _strings(yaml.safe_load(file.read_text()))
        if re.search(r"\\\\\d", text)
    }
    assert wrong == set()
