"""Command line of the benchmarks."""

from __future__ import annotations

import shutil
import sys
import tempfile
from enum import StrEnum
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from vllm_ansible.bench.report import Run, SitesReport
from vllm_ansible.cli.progress import watcher
from vllm_ansible.cli.summary import print_failure
from vllm_ansible.lab import LabError
from vllm_ansible.provisioning import ProvisionError

_MISSED = 3

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


class Kind(StrEnum):
    """How the engine comes to the servers."""

    wheel = "wheel"
    source = "source"


@app.callback()
def main() -> None:
    """Measure what this project promises, in the lab. Needs root, as the lab does.

    Exit status: 0 measured, 1 failed, 2 wrong usage, 3 measured and a target is missed.
    """


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

    errors = Console(stderr=True)

    def progress(text: str) -> None:
        errors.print(text, markup=False, highlight=False, soft_wrap=True)

    network = _network(subnet)
    folder = Path(tempfile.mkdtemp(prefix="vllm-bench-"))
    progress(f"inventories and logs: {folder}")
    try:
        with watcher(errors) as watch:
            report = measure_sites(
                install.value, servers, network, folder, progress, watch, keep=keep
            )
    except ProvisionError as error:
        print_failure(errors, error)
        raise typer.Exit(1) from error
    except LabError as error:
        for problem in error.problems:
            errors.print(problem, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if not keep:
        shutil.rmtree(folder)
    if as_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        print_sites(Console(), report)
    raise typer.Exit(0 if report.met else _MISSED)


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
    verdicts = Table("figure", "measured", "target", "", title="Targets", title_justify="left")
    for one in report.verdicts:
        target = f"{one.target:g}" if one.exact else f"≤ {one.target:g}"
        verdicts.add_row(
            one.name, f"{one.value:g}", target, "[green]met[/]" if one.met else "[red]missed[/]"
        )
    console.print(verdicts)


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


if __name__ == "__main__":
    app(prog_name="bench")
