"""A host that needs nothing is left out of every stage after the plan, and only such a host is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.standins import engine
from vllm_ansible.paths import PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Play = Callable[..., dict[str, Any]]

PLAYBOOKS = PROJECT / "playbooks"
# What looks at all servers whichever of them are done: whoever needs nothing still has needs.
FOR_ALL = {"Validate", "Lab", "Plan", "Plan the web UI", "Mirror", "Build", "Share the wheels"}
MODEL = {"revision": "a" * 40, "sources": [{"kind": "files", "url": "http://192.0.2.1/m/"}]}


def stages() -> list[dict[str, Any]]:
    imported = yaml.safe_load((PROJECT / "site.yml").read_text("utf-8"))
    files = [PROJECT / one["ansible.builtin.import_playbook"] for one in imported]
    return [play for file in files for play in yaml.safe_load(file.read_text("utf-8"))]


def test_every_stage_that_changes_a_server_leaves_out_those_that_are_done() -> None:
    groups = {"vllm": "vllm:!vllm_done", "webui": "webui:!webui_done"}
    hosts = {one["name"]: one["hosts"] for one in stages() if one["name"] not in FOR_ALL}
    assert {"Engine", "Models", "Serve", "Gateway", "Verify", "Receipt"} <= set(hosts)
    # The page has no question of its own in its plan: it is asked for by all.
    assert hosts.pop("Verify the web UI") == "webui"
    assert set(hosts.values()) <= set(groups.values())


@pytest.fixture
def address() -> Iterator[str]:
    server: Any = engine.make_server(engine.parse(["--port=0", "--model=m"]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def play(tmp_path: Path, address: str) -> Play:
    """A plan of this computer, a receipt of it, and the plan again: which groups it is in then."""

    def played(url: str = address, digest: str = "", **variables: Any) -> dict[str, Any]:
        inventory = tmp_path / "hosts.json"
        said = {"vllm_instances": [{"name": "a", "model": "m"}], "vllm_models": {"m": MODEL}}
        hosts = {"one": {"ansible_connection": "local", **said, **variables}}
        hosts["one"]["ansible_python_interpreter"] = sys.executable
        inventory.write_text(json.dumps({"all": {"children": {"vllm": {"hosts": hosts}}}}))
        receipt, out = tmp_path / "receipt.json", tmp_path / "out.json"
        asked = {"question": "Is it Paris?", "receipt_path": str(receipt)}
        doors = [{"name": "a", "url": url, "kind": "text", "served_names": ["m"]}]
        written = {
            "state": "present", "path": str(receipt), "content": {"instances": doors},
            "plan_digest": digest or "{{ first.plan.digest }}",
        }  # fmt: skip
        seen = {"groups": "{{ group_names }}", "receipt": "{{ second.receipt }}"}
        seen["answers"] = "{{ second.answers | default([]) }}"
        tasks = [
            {"host_plan": {"receipt_path": str(receipt)}, "register": "first"},
            {"receipt": written},
            {"host_plan": asked, "register": "second", "changed_when": False},
        ]
        told = [{"copy": {"content": "{{ seen | to_json }}", "dest": str(out)}}]
        book = [
            {"hosts": "vllm", "gather_facts": False, "tasks": tasks},
            {"hosts": "vllm", "gather_facts": False, "vars": {"seen": seen}, "tasks": told},
            {"hosts": "vllm:!vllm_done", "gather_facts": False, "tasks": [{"debug": None}]},
        ]
        (tmp_path / "book.json").write_text(json.dumps(book))
        argv = [sys.executable, "-m", "ansible", "playbook", str(tmp_path / "book.json")]
        config = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}
        for name in ("library", "action_plugins", "module_utils"):
            config[f"ANSIBLE_{name.upper()}"] = str(PROJECT / name)
        config["VLLM_ANSIBLE_CACHE"] = str(tmp_path / "cache")
        done = subprocess.run(
            [*argv, "-i", str(inventory)], env={**os.environ, **config}, cwd=PROJECT,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WARNING" not in done.stderr, done.stderr
        found: dict[str, Any] = json.loads(out.read_text("utf-8"))
        return {**found, "left_out": "no hosts matched" in done.stdout}

    return played


def test_a_host_that_is_as_planned_and_answers_is_done(play: Play) -> None:
    seen = play()
    assert seen["receipt"]["differences"] == []
    assert seen["receipt"]["current"]
    assert [one["answer"] for one in seen["answers"]] == [engine.ANSWER]
    assert "vllm_done" in seen["groups"]
    assert seen["left_out"]


def test_the_long_way_is_taken_where_the_inventory_asks_for_it(play: Play) -> None:
    seen = play(vllm_fast_path=False)
    assert seen["receipt"]["current"]
    assert not seen["left_out"]
    # The stage Verify asks it itself.
    assert seen["answers"] == []


def test_an_instance_that_is_silent_is_a_difference(play: Play) -> None:
    seen = play(url="http://127.0.0.1:1")
    (difference,) = seen["receipt"]["differences"]
    assert (difference["kind"], difference["subject"]) == ("answer", "vllm@a.service")
    assert "refused" in difference["found"]
    assert not seen["receipt"]["current"]
    assert not seen["left_out"]


def test_another_plan_is_a_difference(play: Play) -> None:
    seen = play(digest="0" * 64)
    assert [one["kind"] for one in seen["receipt"]["differences"]] == ["plan"]
    assert not seen["left_out"]
