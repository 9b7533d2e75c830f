"""What vLLM needs on the CPU: the requirement files of its own source package.

No index that everyone reaches has the official wheel for CPU, whose metadata says the same; the
source package is on the default index for every version.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import urllib.request
from functools import cache

from vllm_ansible.locking.uv import LockError, Question, distributions

# Newest layout first.
CPU_FILES = ("requirements/cpu.txt", "requirements-cpu.txt")
TIMEOUT_S = 120


@cache
def cpu_requirements(version: str, python: str) -> list[str]:
    """The requirements of a vLLM version on the CPU, as its source package lists them.

    Raises:
        LockError: The package cannot be had, is not what the index says, or lists nothing for CPU.
    """
    files = requirement_files(source_package(version, python))
    found = [name for name in CPU_FILES if name in files]
    if not found:
        raise LockError(f"vLLM {version}'s source package has none of {', '.join(CPU_FILES)}")
    return read_requirements(files, found[0])


def source_package(version: str, python: str) -> bytes:
    """The source package, its checksum compared with the index's."""
    found = distributions([f"vllm=={version}"], Question([], python))["vllm"].get("sdist")
    if found is None:
        raise LockError(f"vLLM {version} has no source package on the default index")
    with urllib.request.urlopen(found["url"], timeout=TIMEOUT_S) as answer:  # noqa: S310
        content: bytes = answer.read()
    if hashlib.sha256(content).hexdigest() != found["hashes"]["sha256"]:
        raise LockError(f"vLLM {version}'s source package has another checksum than its index says")
    return content


def requirement_files(archive: bytes) -> dict[str, str]:
    """The requirement files at the top of a source package, by path below that top."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        found = {}
        for member in package.getmembers():
            path = member.name.partition("/")[2]
            reader = (
                package.extractfile(member) if re.match(r"requirements.*\.txt$", path) else None
            )
            if reader is not None:
                found[path] = reader.read().decode()
    return found


def read_requirements(files: dict[str, str], name: str) -> list[str]:
    """The requirements of one file and of those that it includes.

    Left out are options, among them indexes, and what is fetched from an address of its own
    (`name @ url`): such a file is on no index and no mirror.
    """
    found = []
    for raw in files[name].splitlines():
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        included = re.match(r"(?:-r|--requirement)[ =]?\s*(\S+)", line)
        if included:
            folder = name.rpartition("/")[0]
            path = f"{folder}/{included[1]}".lstrip("/")
            found += read_requirements(files, path)
        elif line and not line.startswith("-") and not re.match(r"[^;]*\s@\s", line):
            found.append(line)
    return found
