"""Gather ansible-runner's events into the results of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from vllm_ansible.answers import Answers
from vllm_ansible.progress import heard
from vllm_ansible.provisioning.result import (
    Failure,
    HostResult,
    ProvisionResult,
    StageResult,
)

_OUTCOMES = {
    "runner_on_ok": "ok",
    "runner_on_failed": "failed",
    "runner_on_skipped": "skipped",
    "runner_on_unreachable": "unreachable",
}


class Collector:
    """Turns a stream of events into a ProvisionResult and a list of failures.

    Args:
        check: Whether the run is in check mode.
        notify: Called with (kind, stage, task, host, message) for each step.
    """

    def __init__(self, *, check: bool, notify: Callable[..., None]) -> None:
        self.failures: list[Failure] = []
        self._result = ProvisionResult(check=check)
        self._notify = notify
        self._begun = time.monotonic()
        self._stage = ""
        self._stage_begun = self._begun
        self._answers = Answers()

    def handle(self, event: Mapping[str, Any]) -> bool:
        """Take one event of ansible-runner; False tells it not to keep the event on disk."""
        kind, data = event.get("event", ""), event.get("event_data") or {}
        if kind == "playbook_on_play_start":
            self._enter_stage(str(data.get("name") or data.get("play") or ""))
        elif kind in ("playbook_on_task_start", "playbook_on_handler_task_start"):
            self._notify("task", self._stage, str(data.get("task", "")))
        elif kind == "verbose":
            self._progress(str(event.get("stdout", "")), str(data.get("task", "")))
        elif kind in ("runner_item_on_ok", "runner_item_on_failed"):
            host = str(data.get("host", ""))
            self._remember(host, data)
            self._notify("item", self._stage, str(data.get("task", "")), host)
        elif kind in _OUTCOMES:
            self._outcome(_OUTCOMES[kind], data)
        elif kind == "playbook_on_stats":
            for host, changed in (data.get("changed") or {}).items():
                self._result.hosts.setdefault(host, HostResult()).changed = int(changed)
        return False

    def finish(self) -> ProvisionResult:
        """Close the last stage and return the result."""
        self._close_stage()
        self._result.seconds = round(time.monotonic() - self._begun, 3)
        for host, answer in self._answers.by_host():
            self._result.hosts.setdefault(host, HostResult()).answers.append(answer)
        return self._result

    def _enter_stage(self, name: str) -> None:
        self._close_stage()
        self._stage, self._stage_begun = name, time.monotonic()
        self._notify("stage", name)

    def _close_stage(self) -> None:
        if self._stage:
            spent = time.monotonic() - self._stage_begun
            total = self._result.stages.get(self._stage, 0.0) + spent
            self._result.stages[self._stage] = round(total, 3)

    def _progress(self, line: str, task: str) -> None:
        """Pass on what long work says of itself between a task's start and its end."""
        news = heard(line)
        if news is not None:
            host, text = news
            self._notify("progress", self._stage, task, host, text)

    def _outcome(self, kind: str, data: Mapping[str, Any]) -> None:
        host, task = str(data.get("host", "")), str(data.get("task", ""))
        found = data.get("res") or {}
        if kind == "failed" and data.get("ignore_errors"):
            kind = "ok"
        stage = self._stage_of(host)
        stage.seconds = round(stage.seconds + float(data.get("duration") or 0), 3)
        message = ""
        if kind in ("failed", "unreachable"):
            stage.failed += 1
            message = _message(found)
            self.failures.append(
                Failure(
                    host=host,
                    stage=self._stage,
                    task=task,
                    message=message,
                    unreachable=kind == "unreachable",
                )
            )
        elif kind == "ok" and found.get("changed"):
            kind, stage.changed = "changed", stage.changed + 1
        elif kind == "ok":
            stage.ok += 1
        else:
            stage.skipped += 1
        self._remember(host, data)
        self._notify(kind, self._stage, task, host, message)

    def _stage_of(self, host: str) -> StageResult:
        stages = self._result.hosts.setdefault(host, HostResult()).stages
        return stages.setdefault(self._stage, StageResult())

    def _remember(self, host: str, data: Mapping[str, Any]) -> None:
        found = data.get("res") or {}
        action = str(data.get("task_action", ""))
        if action.rpartition(".")[2] == "host_plan":
            notices = found.get("notices") or []
            self._result.notices += [f"{host}: {notice}" for notice in notices]
            differences = (found.get("receipt") or {}).get("differences") or []
            self._result.hosts.setdefault(host, HostResult()).differences += differences
        self._answers.hear(host, action, found)


def _message(found: Mapping[str, Any]) -> str:
    """Pick the words of a failed result that say what went wrong."""
    for item in found.get("results") or []:
        if item.get("failed"):
            return _message(item)
    words = [str(found.get("msg") or "")]
    words += [str(found[key]) for key in ("stderr", "stdout", "module_stderr") if found.get(key)]
    return "\n".join(word.strip() for word in words if word.strip()) or "no message"
