"""Wheels of a few texts, equal bytes for equal texts, and the index that offers wheels."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.origin.workshop import describe


def pack(wheel: Path, info: str, members: dict[str, str]) -> dict[str, Any]:
    """Writes a wheel of texts.

    Args:
        wheel: the file to write.
        info: the name of its ``dist-info`` directory.
        members: what each file says, by its path.

    Returns:
        The wheel's name, size and SHA-256.
    """
    record = []
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in members.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
            record.append(f"{name},sha256={digest.rstrip('=')},{len(text.encode())}\n")
            archive.writestr(zipfile.ZipInfo(name), text)
        listed = "".join([*record, f"{info}/RECORD,,\n"])
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), listed)
    return describe(wheel)


def write_index(directory: Path, offered: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Writes the pages of a simple index (PEP 503).

    Args:
        directory: where its first page is; each project has a directory of its own below.
        offered: name, size and SHA-256 of the files of each project.
    """
    for project, files in offered.items():
        names = {one["filename"]: one["sha256"] for one in files}
        links = {f"{quote(name)}#sha256={digest}": name for name, digest in names.items()}
        _write_page(directory / project, links)
    _write_page(directory, {f"{project}/": project for project in offered})


def _write_page(directory: Path, links: Mapping[str, str]) -> None:
    lines = [f'<a href="{link}">{name}</a><br>' for link, name in links.items()]
    (directory / "index.html").write_text("<!DOCTYPE html>\n" + "\n".join(lines) + "\n")
