"""Progress of a run: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from vllm_ansible.provisioning import TaskEvent

_STYLES = {"changed": "yellow", "failed": "red", "unreachable": "red"}


def clock(seconds: float) -> str:
    """Format seconds as minutes and seconds, 3:07."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


@contextmanager
def watcher(console: Console) -> Iterator[Callable[[TaskEvent], None]]:
    """Yield a function that shows a run's events on the console.

    Args:
        console: Where to show them; its being a terminal decides how.

    Yields:
        A callback for ``provision(on_event=...)``.
    """
    if not console.is_terminal:
        yield lambda event: _plain(console, event)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        line = progress.add_task("starting", total=None)
        # Long work has a line for each host, until its task has ended there.
        working: dict[str, TaskID] = {}

        def show(event: TaskEvent) -> None:
            if event.kind not in ("progress", "item") and event.host in working:
                progress.remove_task(working.pop(event.host))
            if event.kind == "task":
                text = f"[bold]{escape(event.stage)}[/]  {escape(event.task)}"
                progress.update(line, description=text)
            elif event.kind == "progress":
                if event.host not in working:
                    working[event.host] = progress.add_task("", total=None)
                text = escape(f"  {event.host}: {event.message}")
                progress.update(working[event.host], description=text)
            elif event.kind == "stage":
                progress.console.print(f"{clock(event.seconds):>6}  [bold]{escape(event.stage)}[/]")
            elif event.kind in _STYLES:
                _print_outcome(progress.console, event)

        yield show


def _print_outcome(console: Console, event: TaskEvent) -> None:
    style = _STYLES[event.kind]
    text = f"{clock(event.seconds):>6}    [{style}]{event.kind:<8}[/]"
    console.print(f"{text} {escape(event.host)}: {escape(event.task)}")


def _plain(console: Console, event: TaskEvent) -> None:
    if event.kind in ("task", "item", "skipped"):
        return
    what = event.message if event.kind == "progress" else event.task
    where = f"{event.host}: {what}" if event.host else ""
    line = f"{clock(event.seconds):>6} {event.stage}: {event.kind} {where}".rstrip()
    console.print(line, markup=False, highlight=False, soft_wrap=True)
