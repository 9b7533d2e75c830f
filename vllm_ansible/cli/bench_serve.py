"""`bench serve`: vLLM as it comes, vLLM as planned and llama.cpp's server, side by side."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from vllm_ansible.bench.serve_report import Candidate, Prompt, ServeError, ServeReport
from vllm_ansible.bench.verdict import verdict_table
from vllm_ansible.cli.console import for_tables
from vllm_ansible.paths import CACHE

_MISSED = 3
_LAB = Path("/var/cache/vllm-lab")


class PromptKind(StrEnum):
    """How long prompts are: 32 words, or 512."""

    short = "short"
    long = "long"


def kept() -> Path:
    """The lab's cache where there is one, which every checkout shares; else the project's own.

    What the project's own holds stays in use: it was filled before there was a lab.
    """
    own = CACHE / "bench"
    return _LAB / "bench" if _LAB.is_dir() and not own.is_dir() else own


def serve(
    model: Annotated[
        str, typer.Option(help="smollm2-135m, qwen2-402m (random numbers), or a directory.")
    ] = "smollm2-135m",
    rounds: Annotated[
        int, typer.Option(min=2, max=20, help="Starts of each engine; the first has empty caches.")
    ] = 2,
    turns: Annotated[int, typer.Option(min=1, max=99, help="Turns of each load in a round.")] = 3,
    streams: Annotated[
        list[int] | None, typer.Option(help="Requests at a time; may be said again. [1 4 16]")
    ] = None,
    prompt: Annotated[
        list[PromptKind] | None, typer.Option(help="May be said again. [short long]")
    ] = None,
    engine: Annotated[
        Path | None,
        typer.Option(help="Environment with vLLM. [/opt/vllm/current, else one is made: 6 GB]"),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Where models and programs are kept.")] = None,
    without_llama: Annotated[
        bool, typer.Option("--without-llama", help="Leave llama.cpp out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare vLLM's defaults, vLLM as planned and llama.cpp's server on this computer, in turn.

    Runs as whoever calls it and changes nothing but the cache. Nothing else should run meanwhile.
    llama.cpp is compiled at the first time, which takes a quarter of an hour on two cores.
    Exit status: 0 measured, 1 failed, 2 wrong usage, 3 measured and a target is missed.
    """
    from vllm_ansible.bench.serve import Setting, measure_serve  # noqa: PLC0415  # slow to import

    errors = Console(stderr=True)

    def progress(text: str) -> None:
        errors.print(text, markup=False, highlight=False, soft_wrap=True)

    prompts: list[Prompt] = [one.value for one in prompt or list(PromptKind)]
    setting = Setting(
        model=model, streams=sorted(set(streams or [1, 4, 16])), prompts=prompts, rounds=rounds,
        turns=turns, engine=engine, cache=cache or kept(), llama=not without_llama,
    )  # fmt: skip
    # The engines are processes of their own: whoever ends this is to end them.
    signal.signal(signal.SIGTERM, _ended)
    try:
        report = measure_serve(setting, progress)
    except ServeError as error:
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if as_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        print_serve(for_tables(), report)
    raise typer.Exit(0 if report.met else _MISSED)


def _ended(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def print_serve(console: Console, report: ServeReport) -> None:
    """Print the figures of all engines, their ratios, and the verdicts.

    Args:
        console: Where to print.
        report: The figures.
    """
    console.print(
        f"{report.model} ({report.weights_bytes / 1e9:.2f} GB), vLLM {report.version}, "
        f"{report.cores} cores of {report.processor}; memory is read at {report.bandwidth.one:g} "
        f"GB/s by one thread, {report.bandwidth.all:g} by all: at most {report.bound:g} tokens/s "
        f"for one stream",
        highlight=False,
    )
    console.print(_loads(report))
    console.print(_costs(report))
    console.print(verdict_table(report.verdicts))


def _loads(report: ServeReport) -> Table:
    names = list(report.rounds)
    title = "tokens/s (ms to the first token, ms for each further one), medians"
    table = Table("streams", "prompt", *names, "÷ defaults", "÷ llama.cpp", title=title)
    table.title_justify = "left"
    for prompt, streams in report.loads:
        cells = [_cell(report, name, prompt, streams) for name in names]
        ratios = [report.ratio(other, prompt, streams) for other in ("defaults", "llama.cpp")]
        shown = ["" if one is None else f"{one:.2f}" for one in ratios]
        table.add_row(str(streams), prompt, *cells, *shown)
    return table


def _cell(report: ServeReport, name: Candidate, prompt: Prompt, streams: int) -> str:
    rate, first, each = (
        report.median(name, prompt, streams, figure) or 0
        for figure in ("tokens_per_s", "first_ms", "each_ms")
    )
    return f"{rate:.0f} ({first:.0f}, {each:.1f})"


def _costs(report: ServeReport) -> Table:
    table = Table("", *report.rounds, title="Start and memory", title_justify="left")

    def row(title: str, values: list[float | None], form: str) -> None:
        table.add_row(title, *("" if one is None else format(one, form) for one in values))

    row("first start, s", [report.start(name, first=True) for name in report.rounds], ".1f")
    row("further starts, s", [report.start(name, first=False) for name in report.rounds], ".1f")
    row("memory, MiB", [report.memory(name) for name in report.rounds], ".0f")
    return table
