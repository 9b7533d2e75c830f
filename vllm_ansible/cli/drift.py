"""Command line of the drift: what differs between plan, receipt and hosts."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from vllm_ansible.cli.progress import watcher
from vllm_ansible.cli.summary import print_failure
from vllm_ansible.drift import Drift, table
from vllm_ansible.provisioning import ProvisionError, provision

_FAILED, _DRIFT = 1, 3
_PLAYBOOK = "playbooks/drift.yml"

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    inventory: Annotated[
        list[Path],
        typer.Option("--inventory", "-i", help="Inventory directory or file; may be repeated."),
    ] = [Path("inventories/lab")],  # noqa: B006  # typer reads the default, nobody changes it
    limit: Annotated[
        str | None, typer.Option(help="Only these hosts (an Ansible host pattern).")
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte of models and packages: takes minutes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
    vault_password_file: Annotated[
        Path | None, typer.Option(help="File with the password of vaulted variables.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="File that receives Ansible's own output.")
    ] = None,
) -> None:
    """Say what differs between the plan, what was carried out, and the hosts. Changes nothing.

    Exit status: 0 nothing differs, 1 a host could not be looked at, 2 wrong usage, 3 drift.
    """
    errors = Console(stderr=True)
    for path in inventory:
        if not path.exists():
            raise typer.BadParameter(f"{path} does not exist", param_hint="--inventory")
    with tempfile.TemporaryDirectory(prefix="vllm-drift-") as folder:
        report = Path(folder) / "drift.json"
        failed: ProvisionError | None = None
        try:
            with watcher(errors) as on_event:
                provision(
                    inventory,
                    playbook=_PLAYBOOK,
                    limit=f"{limit},localhost" if limit else None,
                    extra_vars={"vllm_site_deep": deep, "vllm_site_report": str(report)},
                    vault_password_file=vault_password_file,
                    on_event=on_event,
                    log=log,
                )
        except ProvisionError as error:
            failed = error
        if not report.exists():
            if failed is not None:
                print_failure(errors, failed)
            raise typer.Exit(_FAILED)
        drift = Drift.model_validate(json.loads(report.read_text(encoding="utf-8")))
    if as_json:
        sys.stdout.write(drift.model_dump_json(indent=2) + "\n")
    else:
        console = Console()
        console.print(table(drift))
        console.print(escape(drift.verdict()))
    if drift.unseen:
        raise typer.Exit(_FAILED)
    raise typer.Exit(_DRIFT if drift.drifted else 0)


if __name__ == "__main__":
    app(prog_name="drift")
