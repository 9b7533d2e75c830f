"""Work that a module detaches goes on alone, answers as the module would, and can be ended."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.modules.conftest import ModuleRunner

TOKEN = "hush-hush-hush-hush"  # noqa: S105  # what must be in no file
# Starts a program as the modules do, in a session of its own; says when it is there.
MODULE = """
import pathlib, subprocess, sys, time
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_detached import Job, by_steps
module = AnsibleModule(argument_spec={
    "step": {"type": "str"}, "jobs": {"type": "path"}, "progress": {"type": "path"},
    "tokens": {"type": "dict", "no_log": True}, "place": {"type": "path"},
    "argv": {"type": "list", "elements": "str"}, "trouble": {"type": "str"},
})
given = module.params
with by_steps(module, Job(pathlib.Path(given["jobs"]), given["place"])):
    program = subprocess.Popen(given["argv"], start_new_session=True)
    pathlib.Path(given["place"]).write_text(str(program.pid))
    program.wait()
    if given["trouble"] == "error":
        raise RuntimeError("unforeseen")
    if given["trouble"]:
        module.fail_json(msg="no good", attempts=[given["trouble"]])
    module.warn("mind the gap")
    module.exit_json(changed=True, path=given["place"], token=given["tokens"]["a"])
"""


class Worker:
    def __init__(self, tmp_path: Path) -> None:
        self.jobs, self.place = tmp_path / "jobs", tmp_path / "pid"
        self.progress = tmp_path / "progress.json"
        self.module = ModuleRunner("none")
        self.module.path = tmp_path / "work.py"
        self.module.path.write_text(MODULE)
        self.argv = ["sleep", "60"]

    def step(self, step: str | None, **changes: Any) -> dict[str, Any]:
        words = {
            "step": step,
            "jobs": str(self.jobs),
            "progress": str(self.progress),
            "place": str(self.place),
            "argv": self.argv,
            "tokens": {"a": TOKEN},
        }
        return self.module(**{**words, **changes})

    def ended(self) -> dict[str, Any]:
        """The result, once there is one."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            seen = self.step("look")
            if "phase" not in seen:
                return seen
            time.sleep(0.1)
        raise AssertionError(seen)

    def program_runs(self) -> bool:
        try:
            state = Path(f"/proc/{self.place.read_text()}/stat").read_text().split()[2]
        except OSError:
            return False
        return state not in "ZX"


@pytest.fixture
def worker(tmp_path):
    one = Worker(tmp_path)
    yield one
    one.step("stop")


def test_quick_work_is_answered_at_once(worker):
    worker.argv = ["true"]
    alone = worker.step(None)
    begun = worker.step("start")
    assert begun["changed"]
    begun["invocation"] = alone["invocation"]
    assert begun == alone


def test_long_work_goes_on_and_its_result_is_the_module_s_own(worker):
    worker.argv = ["sleep", "2.5"]
    begun = worker.step("start")
    assert (begun["phase"], begun["progress"]) == ("running", None)
    worker.progress.write_text('{"done": 7}')
    assert worker.step("look")["progress"] == {"done": 7}
    result = worker.ended()
    assert result["changed"]
    assert result["path"] == str(worker.place)
    assert "mind the gap" in json.dumps(result["warnings"])
    assert not list(worker.jobs.iterdir())


@pytest.mark.parametrize(("trouble", "said"), [("bad", "no good"), ("error", "unforeseen")])
def test_a_failure_is_the_module_s_own(worker, trouble, said):
    worker.argv = ["true"]
    result = worker.step("start", trouble=trouble, fails=True)
    assert said in result["msg"]


def test_a_second_start_joins_the_work(worker):
    worker.step("start")
    first = worker.place.read_text()
    assert worker.step("start")["phase"] == "running"
    assert worker.place.read_text() == first


def test_other_work_of_the_name_is_not_disturbed_while_somebody_waits(worker):
    worker.step("start")
    assert "another run" in worker.step("start", argv=["true"], fails=True)["msg"]
    assert worker.program_runs()
    [job] = worker.jobs.iterdir()
    (job / "seen").write_text(str(time.monotonic() - 100))
    assert worker.step("start", argv=["true"])["changed"]


def test_stopped_work_leaves_no_process_and_no_file(worker):
    worker.step("start")
    worker.progress.write_text("{}")
    assert worker.program_runs()
    assert worker.step("stop")["phase"] == "stopped"
    assert not worker.program_runs()
    assert not list(worker.jobs.iterdir())
    assert not worker.progress.exists()


def test_work_that_nobody_waits_for_ends(worker):
    worker.step("start")
    [job] = worker.jobs.iterdir()
    (job / "seen").write_text(str(time.monotonic() - 10_000))
    until = time.monotonic() + 60
    while worker.program_runs() and time.monotonic() < until:
        time.sleep(0.1)
    assert not worker.program_runs()
    assert "run again" in worker.step("look", fails=True)["msg"]


def test_a_token_is_in_no_file_and_in_no_answer(worker):
    worker.argv = ["sleep", "2"]
    worker.step("start")
    [job] = worker.jobs.iterdir()
    assert (job.stat().st_mode & 0o777) == 0o700
    assert all(TOKEN not in path.read_text() for path in job.iterdir())
    assert TOKEN not in json.dumps(worker.ended())
