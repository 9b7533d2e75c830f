"""Command line that makes the engine's lock files: every version pinned, once, for all hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vllm_ansible import paths
from vllm_ansible.data import DataError, project_data, read_lock
from vllm_ansible.locking.lock import Target, flaw, make, strangers, targets, write
from vllm_ansible.locking.uv import LockError

if TYPE_CHECKING:
    from vllm_ansible.data import Versions

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    version: Annotated[
        str | None, typer.Argument(help="Version of vLLM, as in versions.yml.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All versions, in place of one.")] = False,
    device: Annotated[str | None, typer.Option(help="Only for cpu or gpu.")] = None,
    python: Annotated[str | None, typer.Option(help="Only for this Python, such as 3.10.")] = None,
    stale: Annotated[
        bool, typer.Option("--stale", help="Make only what is missing or stale.")
    ] = False,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Take the newest; else old pins are kept.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is missing or stale. No network.")
    ] = False,
) -> None:
    """Resolve vLLM's requirements and write vllm_ansible/locks/vllm-VERSION-DEVICE-pyPYTHON-*.txt.

    Made is every supported combination (see versions.yml) of VERSION, device and Python. For the
    CPU these are two files: with torch from the default index (built for CUDA, which runs the CPU
    engine too) and, from the same resolution, with torch from the PyTorch CPU index. uv asks its
    own default index (UV_DEFAULT_INDEX); no address gets into a file.

    Exit status: 0 made, or all is well; 1 something could not be made, or is missing or stale;
    2 wrong usage.
    """
    if (version is not None) == every:
        raise typer.BadParameter("say either a VERSION or --all")
    try:
        versions = project_data().versions
    except DataError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    chosen = [
        one
        for one in targets(versions)
        if version in {None, one.version}
        and device in {None, one.device}
        and python in {None, one.python}
    ]
    if not chosen:
        raise typer.BadParameter("versions.yml supports no such version, device and Python")
    found = {one: _flaws(one, versions) for one in chosen}
    if check:
        raise typer.Exit(_report(found, strangers(paths.LOCKS, versions) if every else []))
    wanted = [one for one in chosen if found[one] or not stale]
    made = [_lock(one, versions, upgrade=upgrade) for one in wanted]
    raise typer.Exit(0 if all(made) else 1)


def _flaws(target: Target, versions: Versions) -> list[str]:
    """What is wrong with a target's lock files, a line each."""
    known = versions.vllm[target.version]
    said = [(source, flaw(paths.LOCKS, target, source, known)) for source in target.sources]
    return [f"{target.filename(source)}: {words}" for source, words in said if words is not None]


def _report(found: dict[Target, list[str]], unknown: list[str]) -> int:
    """Prints what --check found and returns the exit status."""
    lines = [line for flaws in found.values() for line in flaws]
    lines += [f"{name}: versions.yml does not support it; remove it" for name in unknown]
    for line in lines:
        typer.echo(line)
    files = sum(len(target.sources) for target in found)
    if lines:
        typer.echo("scripts/lock-engine --all --stale makes what is missing or stale")
        return 1
    typer.echo(f"{files} lock files are as versions.yml wants them")
    return 0


def _lock(target: Target, versions: Versions, *, upgrade: bool) -> bool:
    """Makes and writes a target's lock files; says so, or why not."""
    known = versions.vllm[target.version]
    old = paths.LOCKS / target.filename("default-index")
    kept = read_lock(old).pins if old.is_file() and not upgrade else []
    try:
        locks = make(target, known, kept)
    except LockError as error:
        typer.echo(f"{target}: {error}", err=True)
        return False
    for source, lock in locks.items():
        path = paths.LOCKS / target.filename(source)
        write(path, target, source, known, lock)
        typer.echo(f"{path.name}: {len(lock.pins)} packages, {len(lock.hashes)} with hashes")
    return True


if __name__ == "__main__":
    app()
