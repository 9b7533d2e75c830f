"""Run site.yml through ansible-runner and turn its events into typed results."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ansible_runner

from vllm_ansible.paths import PROJECT
from vllm_ansible.provisioning.collect import Collector
from vllm_ansible.provisioning.result import ProvisionError, ProvisionResult


@dataclass(frozen=True)
class TaskEvent:
    """Progress of a run, for those who watch it.

    Attributes:
        kind: "stage", "task", "progress", "item" (one of a task's loop has ended), "ok", "changed",
            "skipped", "failed" or "unreachable".
        stage: Name of the play.
        task: Name of the task; empty for a stage.
        host: Inventory name of the host; empty for a stage and the start of a task.
        seconds: Seconds since the run began.
        message: What a failed task said, or how far the work of a long one is.
    """

    kind: str
    stage: str
    task: str
    host: str
    seconds: float
    message: str = ""


def provision(
    inventory: str | Path | Sequence[str | Path],
    *,
    limit: str | None = None,
    check: bool = False,
    diff: bool = False,
    extra_vars: Mapping[str, Any] | None = None,
    playbook: str | Path = "site.yml",
    vault_password_file: str | Path | None = None,
    on_event: Callable[[TaskEvent], None] | None = None,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> ProvisionResult:
    """Carry out the whole chain on an inventory.

    Args:
        inventory: Directory or file of the inventory, or several.
        limit: Ansible host pattern that narrows the run.
        check: Say what would change and change nothing.
        diff: Record what files would look like before and after, in the log.
        extra_vars: Variables that win over the inventory's.
        playbook: Playbook to run, relative to the project.
        vault_password_file: File with the password of vaulted variables.
        on_event: Called with each step as it happens.
        log: File that receives Ansible's own output.
        env: Variables added to the environment of Ansible.

    Returns:
        What was done per host and stage, and what the models answered.

    Raises:
        ProvisionError: A host failed or could not be reached, or Ansible could not start; it
            carries the failing host, task and message, and everything that had been done.
    """
    collector = Collector(check=check, notify=_notifier(on_event))
    with tempfile.TemporaryDirectory(prefix="vllm-ansible-") as private_data_dir:
        runner = ansible_runner.run(
            private_data_dir=private_data_dir,
            project_dir=str(PROJECT),
            playbook=str(playbook),
            inventory=[str(Path(path).absolute()) for path in _as_list(inventory)],
            limit=limit,
            extravars=dict(extra_vars or {}),
            cmdline=_command_line(check, diff, vault_password_file),
            envvars=_environment() | dict(env or {}),
            event_handler=collector.handle,
            quiet=True,
        )
        output = runner.stdout.read()
    if log is not None:
        log.write_text(output, encoding="utf-8")
    result = collector.finish()
    if runner.rc != 0 or collector.failures:
        message = collector.failures[0].message if collector.failures else _last_words(output)
        raise ProvisionError(message, collector.failures, result)
    return result


def _notifier(on_event: Callable[[TaskEvent], None] | None) -> Callable[..., None]:
    begun = time.monotonic()

    def notify(kind: str, stage: str, task: str = "", host: str = "", message: str = "") -> None:
        if on_event is not None:
            on_event(TaskEvent(kind, stage, task, host, time.monotonic() - begun, message))

    return notify


def _as_list(inventory: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [inventory] if isinstance(inventory, str | Path) else list(inventory)


def _command_line(check: bool, diff: bool, vault_password_file: str | Path | None) -> str:
    words = ["--check"] if check else []
    words += ["--diff"] if diff else []
    if vault_password_file is not None:
        words += ["--vault-password-file", f"'{Path(vault_password_file).absolute()}'"]
    return " ".join(words)


def _environment() -> dict[str, str]:
    # ansible-playbook stands beside this interpreter, whether or not its environment is activated.
    programs = (str(Path(sys.executable).parent), os.environ.get("PATH"))
    modules = (str(PROJECT), os.environ.get("PYTHONPATH"))
    return {
        "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
        "PATH": os.pathsep.join(filter(None, programs)),
        "PYTHONPATH": os.pathsep.join(filter(None, modules)),
    }


def _last_words(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return "\n".join(lines[-15:]) or "ansible-playbook did not start"
