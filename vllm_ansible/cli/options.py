"""Options that several command lines have, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Inventories = Annotated[
    list[Path],
    typer.Option("--inventory", "-i", help="Inventory directory or file; may be repeated."),
]
Limit = Annotated[str | None, typer.Option(help="Only these hosts (an Ansible host pattern).")]
VaultPasswordFile = Annotated[
    Path | None, typer.Option(help="File with the password of vaulted variables.")
]
Log = Annotated[Path | None, typer.Option(help="File that receives Ansible's own output.")]


def refuse_missing(inventories: list[Path]) -> None:
    """Refuse inventories that are not there.

    Args:
        inventories: Directories or files.

    Raises:
        typer.BadParameter: Names the first that does not exist.
    """
    for path in inventories:
        if not path.exists():
            raise typer.BadParameter(f"{path} does not exist", param_hint="--inventory")
