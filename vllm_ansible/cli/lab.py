"""Command line of the lab: up, boot, down, status, ssh, purge."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vllm_ansible import lab
from vllm_ansible.cli.console import for_tables
from vllm_ansible.lab import ssh as lab_ssh
from vllm_ansible.lab.machine import Machine
from vllm_ansible.lab.system import Progress
from vllm_ansible.paths import PROJECT

_DEFAULT = Path("inventories/lab")
_STYLES = {"running": "green", "degraded": "yellow", "starting": "yellow", "broken": "red"}

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Boot, look at and remove the lab: real systemd machines on this computer. Needs root.\n\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage.",
)
Inventory = Annotated[
    Path, typer.Option("--inventory", "-i", help="Inventory directory or file with the lab.")
]
Hosts = Annotated[
    list[str] | None, typer.Argument(help="Machines; none means all.", show_default=False)
]


@app.command()
def up(inventory: Inventory = _DEFAULT) -> None:
    """Boot or repair the machines, run the whole chain on them, print the model's answer."""
    _boot(inventory, None)
    done = subprocess.run(
        [sys.executable, "-m", "vllm_ansible.cli.provision", "-i", str(_found(inventory))],
        cwd=PROJECT,
        check=False,
    )
    raise typer.Exit(done.returncode)


@app.command()
def boot(hosts: Hosts = None, inventory: Inventory = _DEFAULT) -> None:
    """Boot or repair the machines and leave them as they are: a second time changes nothing."""
    _boot(inventory, hosts)


@app.command()
def down(hosts: Hosts = None, inventory: Inventory = _DEFAULT) -> None:
    """Remove the machines with their disks, network and firewall rules; caches stay."""
    with _reported() as progress:
        report = lab.down(lab.LabSpec.from_inventory(_found(inventory)), progress, hosts or ())
        done = f"down after {report.seconds:.1f} s" if report.changed else "nothing to remove"
        progress(f"lab {report.name}: {done}")


@app.command()
def status(
    inventory: Inventory = _DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which machines run, where, and whether the network is whole. Touches nothing."""
    with _reported():
        spec = lab.LabSpec.from_inventory(_found(inventory))
        report = lab.status(spec)
    if as_json:
        sys.stdout.write(json.dumps(report.as_dict(), indent=2) + "\n")
        return
    console = for_tables()
    table = Table("machine", "address", "state", "failed units", "image", title=f"lab {spec.name}")
    for one in report.machines:
        style = _STYLES.get(one.state, "dim")
        failed = ", ".join(one.failed_units)
        state = f"[{style}]{one.state}[/]"
        table.add_row(one.name, one.address, state, escape(failed), one.image or "")
    console.print(table)
    parts = [f"{name} {'up' if there else 'absent'}" for name, there in report.network.items()]
    console.print(f"{spec.bridge} {spec.subnet}: {', '.join(parts)}")


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def ssh(
    host: Annotated[str, typer.Argument(help="Name of a machine of the lab.")],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]...", help="Without one: a shell.")
    ] = None,
    inventory: Inventory = _DEFAULT,
) -> None:
    """Run a command on a machine, or open a shell there, as root; its exit status is passed on.

    Options stand before HOST. One word is given to the machine's shell as it is; several are a
    command and its arguments, and stay so.
    """
    with _reported():
        spec = lab.LabSpec.from_inventory(_found(inventory))
        machine = Machine(spec, spec.machine(host))
        if not os.access(spec.key, os.R_OK):
            raise lab.LabError(
                f"the lab {spec.name} is not up (or you are not root): scripts/lab up"
            )
    words = words[1:] if words and words[0] == "--" else words or []
    remote = words if len(words) == 1 else [shlex.join(words)] if words else []
    command = lab_ssh.command(machine)
    os.execvp(command[0], [*command, *remote])  # noqa: S606  # ssh takes over this terminal


@app.command()
def purge() -> None:
    """Remove the caches too: images and the origin's files. No lab may be up."""
    with _reported() as progress:
        removed = lab.purge(progress)
        progress(f"removed {', '.join(removed)}" if removed else "nothing to remove")


def _found(inventory: Path) -> Path:
    """Return an inventory as given, else as seen from the project."""
    if inventory.exists():
        return inventory.resolve()
    if (PROJECT / inventory).exists():
        return PROJECT / inventory
    raise typer.BadParameter(f"{inventory} does not exist", param_hint="--inventory")


def _boot(inventory: Path, hosts: list[str] | None) -> None:
    with _reported() as progress:
        spec = lab.LabSpec.from_inventory(_found(inventory))
        report = lab.up(spec, progress, hosts or ())
        for notice in report.notices:
            progress(f"notice: {notice}")
        names = ", ".join(f"{one.name} {one.address}" for one in report.machines)
        progress(f"lab {report.name}: up after {report.seconds:.1f} s: {names}")


@contextmanager
def _reported() -> Iterator[Progress]:
    """Yield what prints progress, and end with status 1 and every problem on an error."""
    console, begun = Console(stderr=True), time.monotonic()

    def progress(text: str) -> None:
        clock = f"{time.monotonic() - begun:6.1f} s"
        if console.is_terminal:
            console.print(f"[cyan]{clock}[/]  {escape(text)}", highlight=False)
        else:
            console.print(f"{clock}  {text}", markup=False, highlight=False, soft_wrap=True)

    try:
        yield progress
    except lab.LabError as error:
        for problem in error.problems:
            console.print("[red]lab:[/] ", end="", soft_wrap=True)
            console.print(problem, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print("interrupted; scripts/lab up goes on, scripts/lab down removes what there is")
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app(prog_name="lab")
