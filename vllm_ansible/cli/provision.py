"""Command line of the whole chain: live progress, a summary, JSON for machines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vllm_ansible.cli.console import for_tables
from vllm_ansible.cli.options import Inventories, Limit, Log, VaultPasswordFile, refuse_missing
from vllm_ansible.cli.progress import watcher
from vllm_ansible.cli.summary import print_failure, print_summary
from vllm_ansible.provisioning import ProvisionError, provision

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    inventory: Inventories = [Path("inventories/lab")],  # noqa: B006  # typer reads the default, nobody changes it
    limit: Limit = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say what would change; change nothing.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="With --log: show files before and after.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
    extra_vars: Annotated[
        list[str] | None,
        typer.Option("--extra-vars", "-e", help="NAME=VALUE that wins over the inventory."),
    ] = None,
    vault_password_file: VaultPasswordFile = None,
    log: Log = None,
) -> None:
    """Turn the hosts of an inventory into vLLM servers and ask each for an answer.

    Progress (stage, host, task, elapsed time) goes to standard error: live on a terminal,
    plain lines elsewhere. Exit status: 0 done, 1 failed, 2 wrong usage.
    """
    errors = Console(stderr=True)
    refuse_missing(inventory)
    try:
        with watcher(errors) as on_event:
            result = provision(
                inventory,
                limit=limit,
                check=check,
                diff=diff,
                extra_vars=_pairs(extra_vars or []),
                vault_password_file=vault_password_file,
                on_event=on_event,
                log=log,
            )
    except ProvisionError as error:
        if as_json:
            print_json_failure(error)
        print_failure(errors, error)
        raise typer.Exit(1) from error
    if as_json:
        sys.stdout.write(result.model_dump_json(indent=2) + "\n")
    else:
        print_summary(for_tables(), result)


def print_json_failure(error: ProvisionError) -> None:
    """Print a failed run as JSON: the failures first, then what had been done."""
    import json  # noqa: PLC0415  # only the failing path needs it

    document = {
        "failures": [failure.model_dump() for failure in error.failures],
        "message": error.message,
        "result": error.result.model_dump(),
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _pairs(words: list[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f"{word!r} is not NAME=VALUE", param_hint="--extra-vars")
        pairs[name] = value
    return pairs


if __name__ == "__main__":
    app(prog_name="provision")
