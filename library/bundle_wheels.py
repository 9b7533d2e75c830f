#!/usr/bin/python
"""The files of pinned Python packages, laid out as the package indexes that they came from."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bundle_wheels
short_description: Gather the files of Python packages into static package indexes
description:
  - Asks a pinned uv which file of which index each requirement is, for another Python and platform
    than the host's own, with the same order of indexes as an installation has.
  - Downloads each, proves its SHA-256, and writes C(<dest>/<index>/simple/<package>/) with the
    files and a page that names them. A file that is there is not fetched again.
  - The destination holds afterwards what was asked for and nothing else.
options:
  sets:
    description: What is installed together.
    type: list
    elements: dict
    required: true
    suboptions:
      requirements:
        description: Requirements of pip; pins may carry C(--hash=sha256:...).
        type: list
        elements: str
        required: true
      python:
        description: Version of Python that will install them, such as 3.10.
        type: str
        required: true
      indexes:
        description: Package indexes asked before the default one.
        type: list
        elements: str
        default: []
      find_links:
        description: Pages and directories with files besides; they become part of C(default).
        type: list
        elements: str
        default: []
      default_index:
        description: The default package index; uv's own when null.
        type: str
        default: null
      dependencies:
        description: Take what the requirements need as well. Pins of a lock file are complete.
        type: bool
        default: false
  tools:
    description: A virtual environment with C(bin/uv) and pip.
    type: path
    required: true
  dest:
    description: Directory of the indexes.
    type: path
    required: true
  names:
    description:
      - Name of each index by its address, for the directory it becomes.
      - The default index is called C(default), and one that is not named is called C(engine) when
        it has vLLM's own wheel, else C(torch).
    type: dict
    required: false
    default: {}
  platform:
    description: uv's word for the platform that will install them.
    type: str
    required: false
    default: x86_64-manylinux_2_28
  parallel:
    description: Number of files that are fetched at the same time.
    type: int
    required: false
    default: 4
  timeout:
    description: Seconds that one file may take.
    type: int
    required: false
    default: 3600
attributes:
  check_mode:
    support: full
    description: Says that files would be gathered; asks no index.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The release's packages are gathered
  bundle_wheels:
    sets:
      - requirements: [vllm==0.31.0+cpu, torch==2.13.0]
        python: "3.10"
        indexes: [https://wheels.vllm.ai/0.31.0/cpu]
    tools: /var/cache/vllm-bundle/tools
    dest: /var/cache/vllm-bundle/content/store/pypi
"""

RETURN = r"""
files:
  description: Paths of the files below O(dest).
  returned: success
  type: list
  elements: str
fetched:
  description: Number of files that were downloaded now.
  returned: success
  type: int
bytes:
  description: Size of the files in bytes.
  returned: success
  type: int
sources_only:
  description: Packages that no index has a wheel of; the hosts must be able to build them.
  returned: success
  type: list
  elements: str
"""

import html
import json
import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_download import TROUBLE, explain, resume
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_files import sha256_of, write_atomic
from ansible.module_utils.vllm_process import ca_environment, run
from ansible.module_utils.vllm_urls import refuse_credentials

SILENCE = 60  # seconds without a byte
MANYLINUX = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}  # minor versions of glibc
# The tools' Python reads what uv writes: TOML, which the standard library knows from 3.11 on.
READ = """
import json, sys
try:
    import tomllib
except ImportError:
    from pip._vendor import tomli as tomllib
print(json.dumps(tomllib.load(open(sys.argv[1], "rb")), default=str))
"""


# A line with a pin, and the one below it that says which index has it.
FROM = re.compile(
    r"^([A-Za-z0-9][A-Za-z0-9._-]*)==[^\n]*\n(?: +[^#\n]*\n)* +# from (\S+)", re.MULTILINE
)


def normalise(name: str) -> str:
    """Return a package name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def compile_words(params: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Return uv's command for a set, without its requirements and the form of the answer."""
    argv = [str(Path(params["tools"]) / "bin/uv"), "pip", "compile", "--quiet", "--no-header"]
    argv += ["--python-version", asked["python"], "--python-platform", params["platform"]]
    argv += ["--index-strategy", "unsafe-first-match"]
    argv += [] if asked["dependencies"] else ["--no-deps"]
    for url in asked["indexes"]:
        argv += ["--index", url]
    for url in asked["find_links"]:
        argv += ["--find-links", url]
    if asked["default_index"]:
        argv += ["--default-index", asked["default_index"]]
    return argv


def ask(params: dict[str, Any], *words: str) -> str:
    """Run one of the tools and return its output.

    Raises:
        HostError: it failed; with its last lines.
    """
    env = {**ca_environment(), "UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never"}
    env["UV_CACHE_DIR"] = str(Path(params["tools"]) / "cache")
    done = run(words, timeout=900, env=env)
    if done.status != 0:
        raise HostError(f"uv could not find the packages:\n{done.tail(30)}")
    return str(done.output)


def resolve(params: dict[str, Any], asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a set's packages with the files that fit, as uv's pylock has them (PEP 751).

    uv leaves the `index` of each out of its pylock and tells it in its other form of answer.

    Raises:
        HostError: uv cannot resolve them.
    """
    with tempfile.TemporaryDirectory(prefix="vllm-bundle-") as scratch:
        lines, lock = Path(scratch, "requirements.in"), Path(scratch, "pylock.toml")
        lines.write_text("".join(f"{line}\n" for line in asked["requirements"]))
        argv = [*compile_words(params, asked), str(lines)]
        form = ["--format", "pylock.toml", "--output-file", str(lock)]
        ask(params, *argv, *form)
        text = ask(params, *argv, "--no-annotate", "--emit-index-annotation")
        read = ask(params, str(Path(params["tools"]) / "bin/python"), "-c", READ, str(lock))
    packages: list[dict[str, Any]] = json.loads(read)["packages"]
    froms = {normalise(name): url for name, url in FROM.findall(text)}
    return [{**package, "index": froms.get(normalise(package["name"]))} for package in packages]


def glibc_minor(name: str) -> int:
    """Return the glibc 2.x that a wheel was built for; 0 for a wheel without compiled code."""
    minors = [int(minor) for minor in re.findall(r"manylinux_2_(\d+)", name)]
    minors += [minor for word, minor in MANYLINUX.items() if f"{word}_" in name]
    return max(minors, default=0)


def choose(package: dict[str, Any], pinned: set[str]) -> dict[str, Any]:
    """Return the one file of a package that will be installed.

    Args:
        package: uv's words; its wheels all fit the platform.
        pinned: checksums that the requirements name.

    Raises:
        HostError: there is no file, or none that is pinned.
    """
    what = f"{package['name']} {package.get('version', '')}".strip()
    files = [{**wheel, "kind": "wheel"} for wheel in package.get("wheels", [])]
    files += [{**package["sdist"], "kind": "sdist"}] if "sdist" in package else []
    if not files:
        raise HostError(f"{what} is no package of an index; bundles carry files of indexes only")
    for file in files:
        file["file"] = unquote(urlsplit(file.get("url", "")).path.rsplit("/", 1)[-1])
        file["sha256"] = file.get("hashes", {}).get("sha256")
        if not file["file"]:
            raise HostError(f"{what} has no address that it can be downloaded from")
    right = [file for file in files if file["sha256"] in pinned]
    wheels = [file for file in right or files if file["kind"] == "wheel"]
    return max(wheels or right or files, key=lambda file: glibc_minor(file["file"]))


def hashes_of(requirements: list[str]) -> dict[str, set[str]]:
    """Return the SHA-256 that requirements name, by package."""
    found: dict[str, set[str]] = {}
    for line in requirements:
        match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line.strip())
        if match:
            found[normalise(match.group())] = set(re.findall(r"sha256:([0-9a-f]{64})", line))
    return found


def index_name(names: dict[str, str], asked: dict[str, Any], url: str | None, own: set[str]) -> str:
    """Return the directory of an index; `own` is the addresses that have vLLM's wheel."""
    address = (url or "").rstrip("/")
    given = {key.rstrip("/"): value for key, value in names.items()}
    if address in given:
        return given[address]
    if address not in {other.rstrip("/") for other in asked["indexes"]}:
        return "default"
    return "engine" if address in own else "torch"


def plan(params: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the files wanted, each with `path` below the destination, `url` and `sha256`.

    Raises:
        HostError: a package cannot be found, or only with other bytes than are pinned.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for asked in params["sets"]:
        packages, pins = resolve(params, asked), hashes_of(asked["requirements"])
        vllm = (package for package in packages if normalise(package["name"]) == "vllm")
        own = {str(package["index"]).rstrip("/") for package in vllm}
        for package in packages:
            name = normalise(package["name"])
            file = choose(package, pins.get(name, set()))
            if pins.get(name) and file["sha256"] and file["sha256"] not in pins[name]:
                raise HostError(f"{name}: the indexes have no file with a checksum that is pinned")
            index = index_name(params["names"], asked, package["index"], own)
            file["path"] = f"{index}/simple/{name}/{file['file']}"
            wanted[file["path"]] = file
    return [wanted[path] for path in sorted(wanted)]


def have(params: dict[str, Any], dest: Path, file: dict[str, Any]) -> str | None:
    """Have one file, proved; return why it cannot be had."""
    target: Path = dest / file["path"]
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    part, flaw = target.with_name(f".{target.name}.part"), ""
    for _ in range(3):
        try:
            resume(file["url"], part, SILENCE, params["timeout"])
        except (HostError, *TROUBLE) as error:
            flaw = explain(error)
            continue
        found = sha256_of(part)
        if file["sha256"] in (None, found):
            part.replace(target)
            return None
        part.unlink()
        flaw = f"sha256 {found} instead of {file['sha256']}"
    return flaw


def is_there(dest: Path, file: dict[str, Any]) -> bool:
    """Tell whether a file is there with the right bytes."""
    path = dest / file["path"]
    return path.is_file() and file["sha256"] in (None, sha256_of(path))


def fetch(params: dict[str, Any], dest: Path, wanted: list[dict[str, Any]]) -> int:
    """Download what is missing and return how many files that were.

    Raises:
        HostError: naming every file that could not be had.
    """
    with ThreadPoolExecutor(max(1, params["parallel"])) as pool:
        there = list(pool.map(lambda file: is_there(dest, file), wanted))
        missing = [file for file, found in zip(wanted, there) if not found]  # noqa: B905 - Python 3.9
        flaws = list(pool.map(lambda file: have(params, dest, file), missing))
    wrong = {file["url"]: flaw for file, flaw in zip(missing, flaws) if flaw}  # noqa: B905
    if wrong:
        lines = "\n".join(f"  {url}: {flaw}" for url, flaw in sorted(wrong.items()))
        raise HostError(f"{len(wrong)} files could not be had:\n{lines}\nRun again to go on.")
    return len(missing)


def page(links: dict[str, str]) -> bytes:
    """Return a page of a simple index (PEP 503) for addresses and what they are called."""
    lines = [f'<a href="{html.escape(a)}">{html.escape(t)}</a><br>' for a, t in links.items()]
    return "\n".join(["<!DOCTYPE html>", "<html><body>", *lines, "</body></html>", ""]).encode()


def write_pages(dest: Path, paths: list[str]) -> None:
    """Write the pages of the packages and their indexes, and remove what no path names."""
    kept = {dest / path for path in paths}
    for path in sorted(dest.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif path.is_file() and path not in kept:
            path.unlink()
    for folder in sorted({path.parent for path in kept}):
        files = sorted(path for path in kept if path.parent == folder)
        links = {f"{path.name}#sha256={sha256_of(path)}": path.name for path in files}
        write_atomic(folder / "index.html", page(links), 0o644)
    for simple in sorted({path.parents[1] for path in kept}):
        names = sorted(path.name for path in simple.iterdir() if path.is_dir())
        write_atomic(simple / "index.html", page({f"{n}/": n for n in names}), 0o644)


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Bring the indexes to their state and return the result."""
    params, dest = module.params, Path(module.params["dest"])
    for asked in params["sets"]:
        urls = [*asked["indexes"], *asked["find_links"], asked["default_index"] or ""]
        refuse_credentials(urls, "sets")
    if module.check_mode:
        return {"changed": True, "files": [], "fetched": 0, "bytes": 0, "sources_only": []}
    wanted = plan(params)
    fetched = fetch(params, dest, wanted)
    paths = [file["path"] for file in wanted]
    write_pages(dest, paths)
    sources = [file["path"] for file in wanted if file["kind"] == "sdist"]
    for path in sources:
        module.warn(f"{path}: no index has a wheel of it; the hosts must be able to build it")
    return {
        "changed": fetched > 0,
        "files": paths,
        "fetched": fetched,
        "bytes": sum((dest / path).stat().st_size for path in paths),
        "sources_only": sources,
    }


def main() -> None:
    """Run as an Ansible module."""
    asked = {
        "requirements": {"type": "list", "elements": "str", "required": True},
        "python": {"type": "str", "required": True},
        "indexes": {"type": "list", "elements": "str", "default": []},
        "find_links": {"type": "list", "elements": "str", "default": []},
        "default_index": {"type": "str"},
        "dependencies": {"type": "bool", "default": False},
    }
    module = AnsibleModule(
        argument_spec={
            "sets": {"type": "list", "elements": "dict", "required": True, "options": asked},
            "tools": {"type": "path", "required": True},
            "dest": {"type": "path", "required": True},
            "names": {"type": "dict", "default": {}},
            "platform": {"type": "str", "default": "x86_64-manylinux_2_28"},
            "parallel": {"type": "int", "default": 4},
            "timeout": {"type": "int", "default": 3600},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    conclude(module, ensure, f"{module.params['dest']} could not be filled")


if __name__ == "__main__":
    main()
