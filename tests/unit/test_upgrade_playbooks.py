"""What every way of changing a serving host has in common, read off the playbooks."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from vllm_ansible.paths import PROJECT

PLAYBOOKS = PROJECT / "playbooks"


def plays(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((PLAYBOOKS / f"{name}.yml").read_text("utf-8"))
    return found


def tasks_of(play: dict[str, Any]) -> list[dict[str, Any]]:
    return list(play.get("tasks", []))


@pytest.mark.parametrize("stage", ["engine", "serve", "gateway", "verify"])
def test_a_stage_that_can_harm_a_serving_host_brings_back_what_served(stage: str) -> None:
    blocks = [task for task in tasks_of(plays(stage)[0]) if "block" in task]
    assert len(blocks) == 1
    (rescue,) = blocks[0]["rescue"]
    assert rescue["ansible.builtin.import_tasks"] == "tasks/fall_back.yml"


def test_an_upgrade_has_all_stages_of_the_site_and_makes_everything_before_it_changes_a_host() -> (
    None
):
    site = yaml.safe_load((PROJECT / "site.yml").read_text("utf-8"))
    files = [one["ansible.builtin.import_playbook"].rpartition("/")[2] for one in site]
    steps = plays("upgrade")
    imported = [one.get("ansible.builtin.import_playbook") for one in steps]
    (change,) = [one for one in steps if one["name"] == "Change"]
    (block,) = [task["block"] for task in tasks_of(change) if "block" in task]
    inside = [task["ansible.builtin.import_tasks"].rpartition("/")[2] for task in block]
    # The web UI is its own host's business.
    assert [*filter(None, imported), *inside] == [one for one in files if one != "webui.yml"]
    assert steps.index(change) == len(steps) - 1
    assert change["max_fail_percentage"] == 0
    assert "serial" in change


def test_a_rollback_reads_neither_inventory_words_nor_plan() -> None:
    text = (PLAYBOOKS / "rollback.yml").read_text("utf-8")
    used = (PROJECT / "roles/openai_server/tasks/restore.yml").read_text("utf-8")
    for word in ("vllm_plan", "vllm_instances", "vllm_engine", "import_playbook", "vllm_receipt"):
        assert word not in text
        assert word not in used
