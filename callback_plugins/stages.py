"""Standard output of a run: Ansible's own, with seconds and a table of stages at the end.

A stage is a play. What each instance answered stands at the very end, so that nobody has to
scroll for it.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible import constants as C  # noqa: N812  # Ansible's own name for it
from ansible.plugins.callback.default import CallbackModule as DefaultCallback

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vllm_ansible.answers import Answers

DOCUMENTATION = """
name: stages
type: stdout
short_description: Ansible's default output with stage times and the instances' answers
description:
  - Prints what the default callback prints, the seconds of each task, a table of stages
    and, per instance, what the model answered.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""


@dataclass
class _Stage:
    """One play: its name, when it began and ended (monotonic seconds) and its counts."""

    name: str
    begun: float
    ended: float | None = None
    tasks: int = 0
    changed: int = 0
    failed: int = 0

    @property
    def seconds(self) -> float:
        """Seconds from the play's start to its end, or until now."""
        return (self.ended if self.ended is not None else time.monotonic()) - self.begun


class CallbackModule(DefaultCallback):  # type: ignore[misc]
    """Default output plus stages, seconds and answers."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "stages"

    def __init__(self) -> None:
        super().__init__()
        self._stages: list[_Stage] = []
        self._answers = Answers()
        self._task_begun = time.monotonic()

    # -- stages -----------------------------------------------------------------------------

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Close the stage before this one and open the next."""
        now = time.monotonic()
        if self._stages:
            self._stages[-1].ended = now
        self._stages.append(_Stage(name=play.get_name().strip() or "play", begun=now))
        super().v2_playbook_on_play_start(play)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Note when the task began."""
        self._count_task()
        super().v2_playbook_on_task_start(task, is_conditional)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Handlers are tasks too."""
        self._count_task()
        super().v2_playbook_on_handler_task_start(task)

    def _count_task(self) -> None:
        self._task_begun = time.monotonic()
        if self._stages:
            self._stages[-1].tasks += 1

    # -- results ----------------------------------------------------------------------------

    def v2_runner_on_ok(self, result: Any) -> None:
        """Print the result and, for work that took a while, its seconds."""
        super().v2_runner_on_ok(result)
        if self._stages and result._result.get("changed"):  # noqa: SLF001
            self._stages[-1].changed += 1
        self._print_seconds(result)
        self._remember(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Keep what each item of a loop answered."""
        super().v2_runner_item_on_ok(result)
        self._remember(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Count the failure, then print it as Ansible does."""
        if self._stages and not ignore_errors:
            self._stages[-1].failed += 1
        super().v2_runner_on_failed(result, ignore_errors)

    def _print_seconds(self, result: Any) -> None:
        seconds = time.monotonic() - self._task_begun
        if seconds >= 1:
            host = result._host.get_name()  # noqa: SLF001
            self._display.display(f"      [{host}] {seconds:.1f} s", color=C.COLOR_VERBOSE)

    def _remember(self, result: Any) -> None:
        host = result._host.get_name()  # noqa: SLF001
        self._answers.hear(host, result._task.action, result._result)  # noqa: SLF001

    # -- the end ----------------------------------------------------------------------------

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print Ansible's recap, the stages and the answers."""
        if self._stages:
            self._stages[-1].ended = time.monotonic()
        super().v2_playbook_on_stats(stats)
        self._print_stages()
        self._print_answers()

    def _print_stages(self) -> None:
        shown = [stage for stage in self._stages if stage.tasks]
        if not shown:
            return
        self._display.banner("STAGES")
        width = max(len(stage.name) for stage in shown)
        for stage in shown:
            colour = C.COLOR_CHANGED if stage.changed else C.COLOR_OK
            self._display.display(
                f"{stage.name:<{width}}  {stage.seconds:7.1f} s  {stage.tasks:3d} tasks"
                f"  changed={stage.changed}  failed={stage.failed}",
                color=C.COLOR_ERROR if stage.failed else colour,
            )
        total = sum(stage.seconds for stage in shown)
        self._display.display(f"{'total':<{width}}  {total:7.1f} s")

    def _print_answers(self) -> None:
        answers = self._answers.by_host()
        if answers:
            self._display.banner("ANSWERS")
        for host, answer in answers:
            self._display.display(
                f"{host} {answer.instance}\n"
                f"  url       {answer.url}\n"
                f"  model     {answer.model}\n"
                f"  ready     {answer.ready}\n"
                f"  speed     {answer.speed}\n"
                f"  question  {answer.question}\n"
                f"  answer    {answer.answer}",
                color=C.COLOR_OK,
            )
