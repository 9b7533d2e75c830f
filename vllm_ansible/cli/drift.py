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

from vllm_ansible.cli.console import for_tables
from vllm_ansible.cli.options import Inventories, Limit, Log, VaultPasswordFile, refuse_missing
from vllm_ansible.cli.progress import watcher
from vllm_ansible.cli.summary import print_failure
from vllm_ansible.drift import Drift, table
from vllm_ansible.provisioning import ProvisionError, provision

_FAILED, _DRIFT = 1, 3
_PLAYBOOK = "playbooks/drift.yml"

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    inventory: Inventories = [Path("inventories/lab")],  # noqa: B006  # typer reads the default, nobody changes it
    limit: Limit = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte of models and packages: takes minutes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
    vault_password_file: VaultPasswordFile = None,
    log: Log = None,
) -> None:
    """Say what differs between the plan, what was carried out, and the hosts. Changes nothing.

    Exit status: 0 nothing differs, 1 a host could not be looked at, 2 wrong usage, 3 drift.
    """
    errors = Console(stderr=True)
    refuse_missing(inventory)
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
        console = for_tables()
        console.print(table(drift))
        console.print(escape(drift.verdict()))
    if drift.unseen:
        raise typer.Exit(_FAILED)
    raise typer.Exit(_DRIFT if drift.drifted else 0)


if __name__ == "__main__":
    app(prog_name="drift")
