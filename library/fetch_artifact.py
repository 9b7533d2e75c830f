#!/usr/bin/python
"""One file from the first of several sources that has the right bytes."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: fetch_artifact
short_description: Fetch a file from the first source that has the right bytes
description:
  - Tries the URLs in order. One that refuses, is too slow, breaks off, or serves other bytes than
    the checksum says is left with a warning, and the next one is tried.
  - The file has its final name only when its SHA-256 is right; what was there stays till then.
options:
  urls:
    description: Where the file can be had, tried in this order. No URL may carry a password.
    type: list
    elements: str
    required: true
  sha256:
    description: The file's SHA-256, 64 hexadecimal digits, from a place other than the sources.
    type: str
    required: true
  dest:
    description: The file on the host. Its directory is made when missing.
    type: path
    required: true
  timeout:
    description: Seconds without a byte after which a source is left.
    type: int
    required: false
    default: 30
  total_timeout:
    description: Seconds that one source may take in all.
    type: int
    required: false
    default: 1800
extends_documentation_fragment:
  - ansible.builtin.files
attributes:
  check_mode:
    support: full
    description: Says whether the file would be fetched, and fetches nothing.
  diff_mode:
    support: full
    description: Shows the checksum before and after.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The installer is here and is the right one
  fetch_artifact:
    urls:
      - https://mirrors.tuna.tsinghua.edu.cn/anaconda/miniconda/Miniconda3-py310_26.1.0-0-Linux-x86_64.sh
      - https://mirrors.ustc.edu.cn/anaconda/miniconda/Miniconda3-py310_26.1.0-0-Linux-x86_64.sh
    sha256: "{{ installer_sha256 }}"
    dest: /var/cache/installers/miniconda.sh
    mode: "0644"
"""

RETURN = r"""
dest:
  description: The file on the host.
  returned: always
  type: str
sha256:
  description: Its checksum.
  returned: always
  type: str
size:
  description: Its size in bytes.
  returned: when the file is there
  type: int
url:
  description: The source it came from; null when nothing was fetched.
  returned: success
  type: str
attempts:
  description: The sources that were tried and did not serve, each with url and error.
  returned: always
  type: list
  elements: dict
"""

import contextlib
import glob
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_download import TROUBLE, PlaceError, download, explain, here
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_files import sha256_of, sync_directory
from ansible.module_utils.vllm_urls import refuse_credentials


def require_checksum(text: str) -> str:
    """Return the checksum in lower case.

    Raises:
        HostError: it is not 64 hexadecimal digits.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise HostError(f"sha256: {text!r} is not 64 hexadecimal digits; pin the right one")
    return text.lower()


def clear(dest: Path, timeout: float) -> None:
    """Remove what killed runs left: no byte came for longer than a source is waited for."""
    for leftover in dest.parent.glob(f".{glob.escape(dest.name)}.*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > 2 * timeout:
                leftover.unlink()


def fetch_from(url: str, params: dict[str, Any], wanted: str, dest: Path) -> None:
    """Fetch one source into the destination, or leave everything as it was.

    Raises:
        HostError: the source serves other bytes, or breaks off.
        PlaceError: the file cannot be written.
        OSError: the source refused or could not be reached.
    """
    with here():
        handle, temporary = tempfile.mkstemp(prefix=f".{dest.name}.", dir=dest.parent)
    try:
        # Without a buffer, whose end would cover up the first error.
        with os.fdopen(handle, "wb", buffering=0) as target:
            found = download(url, target, params["timeout"], params["total_timeout"])
            if found != wanted:
                size = target.tell()
                raise HostError(f"wrong bytes: sha256 of its {size} is {found}, expected {wanted}")
            with here():
                os.fsync(target.fileno())
        with here():
            Path(temporary).replace(dest)
            sync_directory(dest.parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()


def fetch(params: dict[str, Any], wanted: str, dest: Path) -> tuple[str, list[dict[str, str]]]:
    """Fetch from the first source that serves; return it and the ones before it.

    Raises:
        HostError: no source serves; the message has a line for each. Or the file cannot be written.
    """
    attempts: list[dict[str, str]] = []
    dest.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    clear(dest, params["timeout"])
    for url in params["urls"]:
        try:
            fetch_from(url, params, wanted, dest)
        except PlaceError as error:
            raise HostError(
                f"{dest} cannot be written: {error}. No source can mend that: free some space, or"
                " see to the directory.",
                dest=str(dest),
            ) from error
        except (HostError, *TROUBLE) as error:
            attempts.append({"url": url, "error": explain(error)})
        else:
            return url, attempts
    lines = "\n".join(f"  {attempt['url']}: {attempt['error']}" for attempt in attempts)
    raise HostError(
        f"{dest.name} could not be had from any of {len(attempts)} sources:\n{lines}\n"
        "Add a source that works, or correct the checksum if the file is meant to have changed.",
        attempts=attempts,
        dest=str(dest),
    )


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Bring the file to its state and return the result."""
    params = module.params
    refuse_credentials(params["urls"], "urls")
    if not params["urls"]:
        raise HostError("urls: the list is empty; name at least one source")
    wanted, dest = require_checksum(params["sha256"]), Path(params["dest"])
    if dest.is_dir():
        raise HostError(f"{dest} is a directory, and dest is the file's own name; name the file")
    before = sha256_of(dest) if dest.is_file() else None
    result: dict[str, Any] = {"dest": str(dest), "sha256": wanted, "url": None, "attempts": []}
    result["changed"] = before != wanted
    result["diff"] = {
        "before_header": str(dest),
        "after_header": str(dest),
        "before": f"sha256: {before or 'no such file'}\n",
        "after": f"sha256: {wanted}\n",
    }
    if result["changed"] and not module.check_mode:
        result["url"], result["attempts"] = fetch(params, wanted, dest)
        for attempt in result["attempts"]:
            module.warn(f"{dest.name}: {attempt['url']} was left: {attempt['error']}")
    if dest.is_file():
        result["size"] = dest.stat().st_size
        arguments = module.load_file_common_arguments(params, path=str(dest))
        result["changed"] = module.set_fs_attributes_if_different(arguments, result["changed"])
    return result


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "urls": {"type": "list", "elements": "str", "required": True},
            "sha256": {"type": "str", "required": True},
            "dest": {"type": "path", "required": True},
            "timeout": {"type": "int", "default": 30},
            "total_timeout": {"type": "int", "default": 1800},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    conclude(module, ensure, f"{module.params['dest']} cannot be written")


if __name__ == "__main__":
    main()
