"""Options of ours in pip's configuration, which is somebody else's file as well."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

from ansible.module_utils.vllm_errors import HostError

MARK = "# vllm-ansible sets the next option; changes to it are overwritten."
SUFFIX = ".before-vllm-ansible"
MODE = 0o644

Options = dict[str, dict[str, str]]


def normal(option: str) -> str:
    """Return an option's name as pip compares it: index_url is index-url."""
    return option.strip().lower().replace("_", "-")


def wanted_options(given: dict[str, Any]) -> Options:
    """Return the options with their names and values as text.

    Raises:
        HostError: a name or value is none that a line of the file can hold.
    """
    wanted: Options = {}
    for section, options in given.items():
        if not isinstance(options, dict) or not re.fullmatch(r"[\w.-]+", section):
            raise HostError(f"options.{section}: give a section of pip.conf with its options")
        for name, value in options.items():
            text = " ".join(str(value).split())
            if not re.fullmatch(r"[\w-]+", name) or not text or isinstance(value, (dict, list)):
                raise HostError(f"options.{section}.{name}: give an option of pip and its value")
            wanted.setdefault(section, {})[normal(name)] = text
    return wanted


def parse(text: str, path: Path) -> Options:
    """Return what pip reads in a file.

    Raises:
        HostError: pip could not read it either.
    """
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error as error:
        where = f"line {error.lineno}" if hasattr(error, "lineno") else type(error).__name__
        raise HostError(
            f"{path} is no configuration that pip can read ({where}); mend it or move it away"
        ) from error
    sections = (*parser.sections(), *(["DEFAULT"] if parser.defaults() else []))
    return {
        section: {normal(name): " ".join(value.split()) for name, value in parser.items(section)}
        for section in sections
    }


def merge(text: str, wanted: Options) -> str:
    """Return a file's text with the wanted options and none that were set here before.

    Args:
        text: the file.
        wanted: options by section, named as pip compares them.
    """
    kept: list[str] = []
    places: dict[str, int] = {}
    section, dropping, marked = "", False, False
    for line in text.splitlines():
        header = re.match(r"\[([^]]+)\]", line)
        option = re.match(r"([^\s#;\[][^=:]*)[=:]", line)
        if header:
            section, dropping = header.group(1), False
        elif line == MARK:
            marked = True
            continue
        elif option:
            dropping = marked or normal(option.group(1)) in wanted.get(section, {})
        elif not line[:1].isspace():
            dropping = False  # a comment or an empty line ends what belongs to an option
        marked = False
        if not dropping:
            kept.append(line)
        if header:
            places[section] = len(kept)
    for name in sorted(wanted, key=lambda one: places.get(one, -1), reverse=True):
        lines = [part for pair in wanted[name].items() for part in (MARK, " = ".join(pair))]
        if name in places:
            kept[places[name] : places[name]] = lines
        else:
            kept += [*([""] if kept else []), f"[{name}]", *lines]
    return "".join(f"{line}\n" for line in kept)


def holds(found: Options, wanted: Options) -> bool:
    """Say whether all wanted options are among those found."""
    return all(options.items() <= found.get(name, {}).items() for name, options in wanted.items())


def tidy(text: str, wanted: Options) -> str:
    """Return nothing for a file that holds only empty sections and was not wanted."""
    left = [line for line in text.splitlines() if line.strip()]
    return text if wanted or any(not line.startswith("[") for line in left) else ""


def shown(options: Options, wanted: Options) -> str:
    """Return the options that are ours, one in a line; no user and no password."""
    return "".join(
        f"{section}.{name} = {re.sub(r'//[^/@]*@', '//***@', value)}\n"
        for section, pairs in sorted(options.items())
        for name, value in sorted(pairs.items())
        if name in wanted.get(section, {})
    )


def ours(text: str) -> Options:
    """Return the options of a file that were set here."""
    found: Options = {}
    section, lines = "", text.splitlines()
    for before, line in zip(["", *lines], lines):  # noqa: B905 - Python 3.9
        header = re.match(r"\[([^]]+)\]", line)
        section = header.group(1) if header else section
        if before == MARK and "=" in line:
            name, _, value = line.partition("=")
            found.setdefault(section, {})[normal(name)] = value.strip()
    return found
