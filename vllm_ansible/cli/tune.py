"""Command line of tuning: try settings on a host, print the figures, write the best of them."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from vllm_ansible.bench.tune import (
    WORTH,
    Found,
    Search,
    TuneError,
    best,
    candidates,
    changed_file,
    search_host,
    unchanged,
    words_file,
)
from vllm_ansible.cli.console import for_tables
from vllm_ansible.cli.options import VaultPasswordFile
from vllm_ansible.cli.progress import watcher
from vllm_ansible.cli.summary import print_failure
from vllm_ansible.inventory import InventoryError
from vllm_ansible.provisioning import ProvisionError

# Two tries of one setting that are further apart say that the figures are not worth much.
NOISE = 1.1

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    inventory: Annotated[
        Path, typer.Option("--inventory", "-i", help="Inventory directory or file.")
    ],
    limit: Annotated[str, typer.Option(help="The host (a pattern that names one).")],
    instance: Annotated[
        str | None, typer.Option(help="Its instance, where it has several.")
    ] = None,
    streams: Annotated[
        list[int] | None, typer.Option(help="Requests at a time; may be said again. [1 16]")
    ] = None,
    instead: Annotated[
        bool,
        typer.Option(
            "--instead", help="Stop the instance meanwhile; else it runs beside, and both are slow."
        ),
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="Write the best into host_vars.")] = False,
    vault_password_file: VaultPasswordFile = None,
) -> None:
    """Try a few settings of one instance on its own host and print what each gives.

    Each is started twice through the host's release and asked the same questions. The best becomes
    words of the inventory (vllm_tuned), shown as a diff, written with --write; site.yml carries
    them out. What is there is tried first and last; better is what beats both by 3 %.
    Exit status: 0 measured, 1 failed, 2 wrong usage.
    """
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    search = Search(
        inventory, limit, instance, sorted(set(streams or [1, 16])), instead, vault_password_file
    )
    try:
        host, tried = candidates(search)
        file = words_file(inventory, host)
        errors.print(f"{host}: {len(tried)} settings of {tried[0].instance.name} are tried")
        with watcher(errors) as watch:
            found = search_host(search, tried, watch)
    except (TuneError, InventoryError) as error:
        errors.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    except ProvisionError as error:
        print_failure(errors, error)
        raise typer.Exit(1) from error
    winner = best(found)
    print_found(for_tables(), found, winner)
    before, after = changed_file(file, tried[0].instance.name, winner.candidate.words)
    sys.stdout.writelines(
        difflib.unified_diff(
            before.splitlines(keepends=True), after.splitlines(keepends=True), str(file), str(file)
        )
    )
    if write and after != before:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(after, encoding="utf-8")
        errors.print(f"written; carried out by: ansible-playbook site.yml -i {inventory}")
    elif after != before:
        errors.print("not written (--write does)")
    if winner.candidate.against:
        errors.print(
            f"the inventory says {', '.join(winner.candidate.against)} of {tried[0].instance.name} "
            "itself, which wins over what is found: take it out there",
            markup=False,
        )


def print_found(console: Console, found: list[Found], winner: Found) -> None:
    """Print what each setting gave.

    Args:
        console: Where to print.
        found: The figures; the first is what is there.
        winner: The best of them.
    """
    counts = list(dict.fromkeys(n for one in found for n in one.rates))
    rates = [f"tokens/s, {n} at a time" for n in counts]
    table = Table("setting", *rates, "÷ as it is", "start, s", "memory, MiB", "")
    for one in found:
        name, mark = one.candidate.label, "best" if one is winner else ""
        if one.problem:
            table.add_row(name, *("" for _ in counts), "", "", "", "does not run")
            continue
        shown = [f"{one.rates.get(n, 0):.0f}" for n in counts]
        ratio = f"{one.score(found[0]):.2f}"
        table.add_row(name, *shown, ratio, f"{one.start_s:.1f}", str(one.memory_mib), mark)
    console.print(table)
    for one in found:
        if one.problem:
            # What the engine said last comes after the first line.
            why, name = one.problem.partition("\n")[0], one.candidate.label
            console.print(f"{name} does not run: {why}", markup=False, soft_wrap=True)
    tries = unchanged(found)
    if len(tries) > 1 and max(tries) > NOISE * min(tries):
        console.print(
            f"what is there gave {max(tries) / min(tries):.2f} times as much at one try as at the "
            "other: the host does other work; try again when it does not",
            highlight=False,
            soft_wrap=True,
        )
    if winner is found[0]:
        console.print(f"nothing is better than what is there by {WORTH - 1:.0%}", highlight=False)


if __name__ == "__main__":
    app(prog_name="tune")
