"""The installers of Miniconda in versions.yml: read, checked, and added to as text.

The file is written by people and has their comments: what is added is a few lines, and all else
stays as it is.
"""

from __future__ import annotations

import re

import yaml

Installers = dict[str, dict[str, str]]

# py310_26.7.1-1: Python 3.10, conda 26.7.1, first build.
MINICONDA_VERSION = re.compile(r"py3(?P<minor>\d{1,2})_(?P<conda>\d+\.\d+\.\d+)-(?P<build>\d+)")
ARCHITECTURES = ("aarch64", "x86_64")
_KEY = re.compile(r"^  miniconda:\n", re.MULTILINE)
_ENTRY = re.compile(r"^    (\S+):\n(?:^      \S.*\n)+", re.MULTILINE)


def read_installers(text: str) -> Installers:
    """Returns the checksums by version and architecture.

    Raises:
        ValueError: the text has none.
    """
    try:
        found: Installers = yaml.safe_load(text)["vllm_data_versions"]["miniconda"]
    except (KeyError, TypeError) as error:
        raise ValueError("vllm_data_versions.miniconda is missing") from error
    return found


def order(version: str) -> tuple[int, ...]:
    """Returns what a version is sorted by: Python, conda, build, as numbers."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def problems(text: str) -> list[str]:
    """Returns what is wrong with the installers' data; nothing when all is well.

    Args:
        text: versions.yml.
    """
    known = read_installers(text)
    found = []
    if list(known) != sorted(known, key=order):
        found.append("miniconda: sort the versions by Python, conda and build")
    for version, files in known.items():
        if not MINICONDA_VERSION.fullmatch(version):
            found.append(f"miniconda.{version}: no version such as py310_26.7.1-1")
        if list(files) != list(ARCHITECTURES):
            found.append(f"miniconda.{version}: give {', '.join(ARCHITECTURES)}, in this order")
        found += [
            f"miniconda.{version}.{name}: not 64 hexadecimal digits in lower case"
            for name, digest in files.items()
            if not re.fullmatch("[0-9a-f]{64}", str(digest))
        ]
    digests = [digest for files in known.values() for digest in files.values()]
    if len(set(digests)) != len(digests):
        found.append("miniconda: one checksum stands at two installers")
    return found


def with_installers(text: str, version: str, files: dict[str, str]) -> str:
    """Returns the text with one more version in its place.

    Args:
        text: versions.yml.
        version: such as ``py310_26.7.1-1``; not in the text yet.
        files: SHA-256 by architecture.

    Raises:
        ValueError: the text does not have the shape that it is kept in.
    """
    begin = _KEY.search(text)
    if begin is None:
        raise ValueError("a line `  miniconda:` is missing below vllm_data_versions")
    place = begin.end()
    while (entry := _ENTRY.match(text, place)) and order(entry[1]) < order(version):
        place = entry.end()
    lines = "".join(f"      {name}: {files[name]}\n" for name in sorted(files))
    after = f"{text[:place]}    {version}:\n{lines}{text[place:]}"
    expected = {**read_installers(text), version: files}
    if read_installers(after) != expected or problems(after):
        raise ValueError(f"{version} could not be put in: {'; '.join(problems(after))}")
    return after
