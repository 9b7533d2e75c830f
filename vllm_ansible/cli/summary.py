"""What a run has to say at its end: stages, hosts, answers; or its failures."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vllm_ansible.provisioning import Answer, ProvisionError, ProvisionResult


def print_summary(console: Console, result: ProvisionResult) -> None:
    """Print stages with their seconds, hosts with their changes, and the models' answers.

    Args:
        console: Where to print.
        result: A run that ended well.
    """
    stages = Table("stage", "seconds", "changed", title="Stages", title_justify="left")
    for name, seconds in result.stages.items():
        changed = sum(
            host.stages[name].changed for host in result.hosts.values() if name in host.stages
        )
        stages.add_row(name, f"{seconds:.1f}", str(changed))
    stages.add_row("total", f"{result.seconds:.1f}", str(result.changed))
    console.print(stages)
    for notice in result.notices:
        console.print(f"[yellow]notice[/] {escape(notice)}")
    for name, host in result.hosts.items():
        for answer in host.answers:
            _print_answer(console, name, answer)
    if result.check:
        console.print(f"Check mode: nothing was changed; {result.changed} change(s) would be made.")


def _print_answer(console: Console, host: str, answer: Answer) -> None:
    table = Table(show_header=False, title=f"{host}  {answer.instance}", title_justify="left")
    table.add_row("URL", answer.url)
    table.add_row("model", answer.model)
    table.add_row("ready", answer.ready)
    table.add_row("speed", answer.speed)
    table.add_row("question", escape(answer.question))
    table.add_row("answer", f"[bold green]{escape(answer.answer)}[/]")
    console.print(table)


def print_failure(console: Console, error: ProvisionError) -> None:
    """Print every failure of a run: host, stage, task and message.

    Args:
        console: Where to print.
        error: The run's error.
    """
    if not error.failures:
        console.print(f"[red]failed[/] {escape(error.message)}", soft_wrap=True)
    for failure in error.failures:
        kind = "unreachable" if failure.unreachable else "failed"
        where = f"{failure.host}  {failure.stage}: {failure.task}"
        console.print(f"[red]{kind}[/] {escape(where)}", soft_wrap=True)
        console.print(failure.message, markup=False, highlight=False, soft_wrap=True)
