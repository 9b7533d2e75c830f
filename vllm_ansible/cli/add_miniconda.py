"""Command line that adds a version of Miniconda to versions.yml, checksums and all."""

from __future__ import annotations

import hashlib
import http.client
import re
import ssl
import urllib.request
from pathlib import Path
from typing import Annotated

import typer
import yaml

from vllm_ansible import paths
from vllm_ansible.data import project_data
from vllm_ansible.versions import (
    ARCHITECTURES,
    MINICONDA_VERSION,
    read_installers,
    with_installers,
)

app = typer.Typer(add_completion=False, rich_markup_mode=None)

# Sources that must give the same checksum.
_ENOUGH = 2
_CHUNK = 1 << 20
_TIMEOUT_S = 30
_SUM = re.compile(r"\b(?P<sha256>[0-9a-f]{64})\b\s+\*?(?P<path>\S+)", re.IGNORECASE)


class SourceError(Exception):
    """A source does not have an installer's checksum; says why."""


@app.command()
def main(
    version: Annotated[str, typer.Argument(help="Version, such as py310_26.7.1-1.")],
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="URL|DIR|FILE",
            help="Where the installers are: a mirror's address, a directory with the files, or a "
            "file of checksums as sha256sum writes it. Repeatable. [default: all mirrors of the "
            "profiles in mirrors.yml]",
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="The file to add to.")] = paths.DATA / "versions.yml",
) -> None:
    """Add a version of Miniconda's installers to group_vars/all/versions.yml.

    Each architecture's installer is read from the sources in order until two of them give the same
    checksum; where only one answers, that is said. Sources that differ end it: nothing is written.

    Exit status: 0 added or already there, 1 failed, 2 wrong usage.
    """
    if not MINICONDA_VERSION.fullmatch(version):
        raise typer.BadParameter(f"{version!r}: write it as the installers do, py310_26.7.1-1")
    sources = source or mirrors()
    try:
        found = {one: agreed(file_name(version, one), sources) for one in ARCHITECTURES}
        changed = add(data, version, found)
    except (SourceError, OSError, ValueError, yaml.YAMLError) as error:
        typer.echo(f"add-miniconda: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{version}: {f'added to {data}' if changed else 'is there, with these checksums'}")
    if changed:
        typer.echo("Its default is another line of the same file: default_miniconda.")


def mirrors() -> list[str]:
    """All addresses of installers that the profiles have outside of a site, each once."""
    profiles = project_data().mirrors.profiles.values()
    urls = (url for profile in profiles for url in profile.miniconda)
    return [url for url in dict.fromkeys(urls) if "{" not in url]


def file_name(version: str, architecture: str) -> str:
    """An installer's name on every mirror."""
    return f"Miniconda3-{version}-Linux-{architecture}.sh"


def agreed(name: str, sources: list[str]) -> str:
    """The checksum of one installer that two sources give, or the only one that answers.

    Raises:
        SourceError: none has it, or two differ.
    """
    said: dict[str, str] = {}
    failed: list[str] = []
    for source in sources:
        try:
            said[source] = checksum(name, source)
        except (SourceError, OSError, http.client.HTTPException) as error:
            failed.append(f"{source}: {error}")
            typer.echo(f"{name}: {failed[-1]}", err=True)
        if len(said) == _ENOUGH or len(set(said.values())) > 1:
            break
    lines = "\n".join(f"  {source}: {digest}" for source, digest in said.items())
    if len(set(said.values())) > 1:
        raise SourceError(f"{name}: the sources differ, so nothing is written:\n{lines}")
    if not said:
        tried = "\n".join(f"  {line}" for line in failed)
        raise SourceError(f"{name}: no source has it:\n{tried}\nGive another one with --from.")
    digest = next(iter(said.values()))
    only = "" if len(said) > 1 else ", from one source alone: compare it with another place"
    typer.echo(f"{name}: {digest}{only}")
    return digest


def checksum(name: str, source: str) -> str:
    """What one source says of an installer: its bytes' checksum, or a line of a list.

    Raises:
        SourceError: the list has no such line, or the file is not there.
        OSError: it cannot be read.
    """
    if re.match(r"https?://", source):
        return _download(f"{source.rstrip('/')}/{name}")
    path = Path(source)
    if path.is_dir():
        if not (path / name).is_file():
            raise SourceError(f"has no {name}")
        with (path / name).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    sums = _SUM.finditer(path.read_text(encoding="utf-8"))
    digests = {m["sha256"].lower() for m in sums if m["path"].rsplit("/", 1)[-1] == name}
    if len(digests) != 1:
        raise SourceError(f"has {len(digests)} checksums of {name}")
    return digests.pop()


def _download(url: str) -> str:
    """The checksum of what a URL serves; nothing is kept."""
    digest, size = hashlib.sha256(), 0
    request = urllib.request.Request(url, headers={"User-Agent": "vllm-ansible"})  # noqa: S310  # http(s) by now
    with urllib.request.urlopen(  # noqa: S310  # as before
        request, timeout=_TIMEOUT_S, context=ssl.create_default_context()
    ) as answer:
        announced = answer.headers.get("Content-Length")
        while piece := answer.read1(_CHUNK):
            digest.update(piece)
            size += len(piece)
    if announced is not None and int(announced) != size:
        raise SourceError(f"broke off after {size} of {announced} bytes")
    return digest.hexdigest()


def add(path: Path, version: str, files: dict[str, str]) -> bool:
    """Writes a version's checksums into the data; says whether anything changed.

    Raises:
        SourceError: the version is there with other checksums.
        ValueError: the file has no such data, or would not have it afterwards.
    """
    text = path.read_text(encoding="utf-8")
    known = read_installers(text)
    if version in known and known[version] != files:
        raise SourceError(f"{version} is in {path} with other checksums: look into it by hand")
    if version in known:
        return False
    path.write_text(with_installers(text, version, files), encoding="utf-8")
    return True


if __name__ == "__main__":
    app()
