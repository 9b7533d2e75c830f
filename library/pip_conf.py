#!/usr/bin/python
"""Options of pip for all users, beside those that somebody else has set."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: pip_conf
short_description: Set options in pip's configuration for all users, and leave the others alone
description:
  - Each option that is set here has a comment before it that says so. An option that was set here
    once and is not listed any more is removed; lines of other people stay as they are.
  - A file that somebody else wrote is copied beside itself, once, before its first change. An
    option of theirs that is set here is replaced.
options:
  options:
    description: The options, by section, such as C({"global":{"index-url":"..."}}). Empty to undo.
    type: dict
    required: true
  path:
    description: The file. A link is followed.
    type: path
    required: false
    default: /etc/pip.conf
attributes:
  check_mode:
    support: full
    description: Says whether the file would change, and writes nothing.
  diff_mode:
    support: full
    description: Shows the options that are set here, before and after; users and passwords hidden.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: Pip asks the mirror
  pip_conf:
    options:
      global:
        index-url: https://mirrors.tuna.tsinghua.edu.cn/pypi/web/simple
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
backup:
  description: The copy of the file as it was before us; null when there was none.
  returned: success
  type: str
"""

import configparser
import re
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_files import write_atomic

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


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Bring the file to its state and return the result."""
    wanted = wanted_options(module.params["options"])
    path = Path(module.params["path"]).resolve()
    before = path.read_text("utf-8") if path.is_file() else ""
    now, mine = parse(before, path), ours(before)
    # What is ours and right needs no new text: the order of the file stays.
    right = mine == wanted and holds(now, wanted)
    after = before if right else tidy(merge(before, wanted), wanted)
    found = parse(after, path)
    if not holds(found, wanted):
        raise HostError(f"{path} could not be edited: look at {', '.join(wanted)} in it by hand")
    backup = path.with_name(f"{path.name}{SUFFIX}")
    foreign = bool(before) and not mine and not backup.exists()
    changed = after != before
    if changed and not module.check_mode:
        mode = path.stat().st_mode & 0o777 if path.is_file() else MODE
        if foreign:
            write_atomic(backup, before.encode(), mode)
        if after:
            write_atomic(path, after.encode(), mode)
        else:
            path.unlink()
    seen = {name: {**mine.get(name, {}), **wanted.get(name, {})} for name in {*mine, *wanted}}
    return {
        "changed": changed,
        "path": str(path),
        "backup": str(backup) if backup.exists() else None,
        "diff": {
            "before_header": str(path),
            "after_header": str(path),
            "before": shown(now, seen),
            "after": shown(found, seen),
        },
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "options": {"type": "dict", "required": True},
            "path": {"type": "path", "default": "/etc/pip.conf"},
        },
        supports_check_mode=True,
    )
    conclude(module, ensure, f"{module.params['path']} cannot be written")


if __name__ == "__main__":
    main()
