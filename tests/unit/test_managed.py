"""What a plan lists of a host is all that the roles leave there: receipts live by it."""

from __future__ import annotations

import re

import pytest

from tests.unit.test_plan import plan
from vllm_ansible.paths import PROJECT
from vllm_ansible.plan.mirror import plan_mirror
from vllm_ansible.plan.result import Managed
from vllm_ansible.schema import Mirror

LITERAL = re.compile(
    r"^\s+(?:dest|path|src): \"?(/(?:etc|opt|var|srv)/[^\s\"{]*)\"?$", re.MULTILINE
)
# Where a role merely looks.
READ = {"/etc/vllm/api_key"}


def listed(managed: Managed) -> set[str]:
    """All paths of a list."""
    links = [one.path for one in (*managed.links, *managed.switched_off)]
    places = [*managed.directories, *(tree.path for tree in managed.trees)]
    return {*(one.path for one in managed.files), *links, *places}


def written(role: str) -> set[str]:
    """The paths that a role's tasks name word for word."""
    texts = [path.read_text() for path in (PROJECT / "roles" / role / "tasks").glob("*.yml")]
    return {path for text in texts for path in LITERAL.findall(text)}


@pytest.mark.parametrize("role", ["openai_server", "gateway", "miniconda", "vllm", "model"])
def test_what_a_role_writes_on_a_server_is_listed(role: str) -> None:
    managed = plan(vllm_logs={"gateway_access": "json"}).managed
    assert written(role) - READ <= listed(managed) | {"/etc/logrotate.d/vllm-gateway"}


def test_what_the_role_writes_on_a_mirror_host_is_listed() -> None:
    one = plan().needs
    managed = plan_mirror("m", Mirror(), "192.0.2.3", {"a": one}).managed
    assert written("mirror") <= listed(managed)


def test_a_server_s_users_and_services_are_listed() -> None:
    made = plan()
    managed = made.managed
    assert managed.users == ["vllm"]
    assert managed.groups == ["vllm"]
    assert [(one.user, one.group) for one in managed.memberships] == [("www-data", "vllm")]
    assert {one.unit for one in managed.services} == {one.unit for one in made.instances}
    [service, *_] = managed.services
    assert made.release.path in service.trees
    assert f"/etc/vllm/{made.instances[0].name}.yaml" in service.inputs
    assert managed.environments == [made.release.path]


def test_who_gets_conda_is_listed_with_pip_s_options() -> None:
    lines = plan(vllm_conda_users=["root"]).managed.lines
    assert ("conda", "root") in {(one.kind, one.subject) for one in lines}
