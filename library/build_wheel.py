#!/usr/bin/python
"""A wheel compiled from a source tree, published only when it is proved and its name is true."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: build_wheel
short_description: Compile a source tree into a wheel whose name tells the truth
description:
  - The build runs as a transient systemd unit of the host, so that it survives a lost connection
    and is bounded in memory; its log is kept. A build that is under way is joined, and one that was
    interrupted goes on from what it and ccache have kept.
  - When it has ended, the wheel's compiled files are read. Python, processor and the oldest glibc
    that they run on become its tag; its modules are loaded in the build's environment; and only
    then the wheel appears in its place together with C(build.json).
  - The action of the same name does all the steps and shows the build's progress.
options:
  step:
    description:
      - One step of the whole. V(look) changes nothing, V(start) begins or joins the build,
        V(publish) publishes a build that has ended. When null, the action does what is needed.
    type: str
    choices: [look, start, publish]
    required: false
    default: null
  key:
    description: Names the build, the unit and the wheel's directory; the same inputs, the same key.
    type: str
    required: true
  base:
    description: Directory of all builds.
    type: path
    required: false
    default: /var/cache/vllm-build
  name:
    description: Name that the wheel's metadata must say.
    type: str
    required: false
    default: vllm
  version:
    description: Version that the wheel's metadata must say, such as C(0.31.0+cpu).
    type: str
    required: true
  tree:
    description: Directory with the sources. Needed to start.
    type: path
    required: false
    default: null
  prefix:
    description: The build's environment, with Python and all that the build needs. Needed to start.
    type: path
    required: false
    default: null
  requirements_file:
    description:
      - File in the tree that lists what the build needs. Each line must be met by the environment.
    type: str
    required: false
    default: null
  runtime_file:
    description: File in the tree with what the engine needs to run; the sources' setup reads it.
    type: str
    required: false
    default: null
  env:
    description: Environment variables of the build. No secrets; they are seen in the unit.
    type: dict
    required: false
    default: {}
  jobs:
    description: Compilers at once; chosen by cores and memory when 0.
    type: int
    required: false
    default: 0
  job_mib:
    description: Memory that one compiler takes at its worst, in MiB.
    type: int
    required: false
    default: 2048
  weight:
    description: The build's share of the processors against other services, which have 100.
    type: int
    required: false
    default: 20
  record:
    description: What build.json shall say besides, such as the compiler or the sources' origin.
    type: dict
    required: false
    default: {}
  lines:
    description: How many lines of the log's end are shown when the build fails.
    type: int
    required: false
    default: 40
  every:
    description: Seconds between two lines of progress.
    type: int
    required: false
    default: 10
  timeout:
    description: Seconds that the build may take.
    type: int
    required: false
    default: 21600
attributes:
  check_mode:
    support: full
    description: Says whether a wheel would be built, and builds none.
  diff_mode:
    support: none
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The wheel is built
  build_wheel:
    key: 0123456789ab
    version: 0.31.0+cpu
    tree: /var/cache/vllm-build/work/0123456789ab/tree
    prefix: /var/cache/vllm-build/environments/0123456789ab
    requirements_file: requirements/build/cpu.txt
    env:
      VLLM_TARGET_DEVICE: cpu
"""

RETURN = r"""
phase:
  description: C(absent), C(running), C(ended), C(failed) or C(published).
  returned: success
  type: str
build:
  description: Content of build.json; null until the wheel is published.
  returned: success
  type: dict
path:
  description: The published wheel; null until then.
  returned: success
  type: str
progress:
  description: The last step named by the log, C(done) and C(total); null before the first.
  returned: success
  type: dict
elapsed:
  description: Seconds since the build was started.
  returned: success
  type: int
log:
  description: The log's path on the host.
  returned: success
  type: str
"""

import email
import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_build_unit import (
    ENDED,
    PUBLISHED,
    RESERVE_MIB,
    RUNNING,
    Places,
    jobs_for,
    memory_mib,
    observe,
    start,
    unit_of,
)
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_files import (
    as_json,
    read_json_object,
    sha256_of,
    sync_directory,
    write_atomic,
)
from ansible.module_utils.vllm_process import run
from ansible.module_utils.vllm_wheel import Truth, examine

# Runs in the build's environment, which has `packaging`. Options of pip are left to the installer.
COMPARE = r"""
import importlib.metadata, json, sys
from packaging.requirements import Requirement
lacking = []
for line in open(sys.argv[1]):
    line = line.split(" #")[0].strip()
    if not line or line[0] in "#-":
        continue
    wanted = Requirement(line)
    if wanted.marker and not wanted.marker.evaluate():
        continue
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    if version is None or not wanted.specifier.contains(version, prereleases=True):
        lacking.append(f"{line} (here: {version or 'missing'})")
print(json.dumps(lacking))
"""
# torch first: its libraries are those that the modules are linked with.
# vLLM's variants for a processor register what they have with torch as soon as they are loaded, and
# are no modules under their files' names: _C_AVX2 has PyInit__C, as all are compiled as one.
LOAD = r"""
import ctypes, importlib.machinery, importlib.util, os, sys
try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
name = sys.argv[1].rpartition("/")[2].partition(".")[0]
if hasattr(ctypes.PyDLL(sys.argv[1], os.RTLD_NOW | os.RTLD_GLOBAL), "PyInit_" + name):
    loader = importlib.machinery.ExtensionFileLoader(name, sys.argv[1])
    spec = importlib.util.spec_from_file_location(name, sys.argv[1], loader=loader)
    importlib.util.module_from_spec(spec)
"""
ILLEGAL_INSTRUCTION = -4


def published(places: Places, params: dict[str, Any]) -> dict[str, Any] | None:
    """Return build.json of a wheel that is whole; None when there is none."""
    try:
        build: dict[str, Any] | None = read_json_object(places.wheels / "build.json")
    except ValueError:
        return None
    if build is None or build.get("version") != params["version"]:
        return None
    wheel = places.wheels / str(build.get("filename"))
    if not wheel.is_file() or sha256_of(wheel) != build.get("sha256"):
        return None
    return build


def look(params: dict[str, Any], places: Places) -> dict[str, Any]:
    """Return how far the build is. Changes nothing."""
    build = published(places, params)
    seen = observe(places, unit_of(params["key"]), params["lines"])
    if build is not None:
        seen.update(phase=PUBLISHED, reason="", tail="")
    path = str(places.wheels / build["filename"]) if build else None
    return {"changed": False, "build": build, "path": path, **seen}


def require_files(params: dict[str, Any], tree: Path) -> None:
    """Refuse a tree that is not laid out as the data about its version say.

    Raises:
        HostError: naming the file, and what the tree has instead.
    """
    for option in ("requirements_file", "runtime_file"):
        name = params[option]
        if name and not (tree / name).is_file():
            has = sorted(
                path.relative_to(tree).as_posix()
                for pattern in ("requirements*.txt", "requirements/*.txt", "requirements/*/*.txt")
                for path in tree.glob(pattern)
            )
            raise HostError(
                f"{option}: the sources have no {name}; they have {', '.join(has) or 'none'}."
                " Correct it for this version.",
                has=has,
            )


def require_environment(params: dict[str, Any], tree: Path, python: Path) -> None:
    """Refuse an environment that lacks what the sources say they need.

    Raises:
        HostError: listing every line that is not met.
    """
    if not params["requirements_file"]:
        return
    argv = [str(python), "-I", "-c", COMPARE, str(tree / params["requirements_file"])]
    asked = run(argv, timeout=120)
    if asked.status != 0:
        raise HostError(f"{python} cannot compare what is needed: {asked.tail(10)}")
    lacking = json.loads(asked.output)
    if lacking:
        raise HostError(
            f"the build's environment does not have what {params['requirements_file']} asks for: "
            f"{'; '.join(lacking)}. Correct the pins of the build.",
            lacking=lacking,
        )


def choose_jobs(params: dict[str, Any]) -> tuple[int, int]:
    """Return the number of jobs and the memory in MiB that the build may take."""
    memory = memory_mib(Path("/proc/meminfo").read_text(encoding="utf-8"))
    cores = len(os.sched_getaffinity(0))
    jobs = params["jobs"] or jobs_for(cores, memory, params["job_mib"])
    return jobs, max(memory - RESERVE_MIB, params["job_mib"])


def begin(params: dict[str, Any], places: Places) -> dict[str, Any]:
    """Start the build, or join the one that runs; return how far it is.

    Raises:
        HostError: tree or environment are not as the build needs them.
    """
    seen = look(params, places)
    if seen["phase"] in (PUBLISHED, RUNNING, ENDED):
        return seen
    for option in ("tree", "prefix"):
        if not params[option]:
            raise HostError(f"{option}: needed to start a build")
    tree, python = Path(params["tree"]), Path(params["prefix"]) / "bin/python"
    require_files(params, tree)
    require_environment(params, tree, python)
    jobs, memory = choose_jobs(params)
    path = f"{python.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    env = {
        "PATH": path,
        "HOME": str(places.work),
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "MAX_JOBS": str(jobs),
        "CCACHE_DIR": str(places.ccache),
        # The path of the tree is part of each command; without this another key shares nothing.
        "CCACHE_BASEDIR": str(tree),
        "CCACHE_NOHASHDIR": "1",
        **{name: str(value) for name, value in params["env"].items()},
    }
    limits = {
        "MemoryMax": f"{memory}M",
        "MemorySwapMax": "0",
        "CPUWeight": str(params["weight"]),
        "Nice": "10",
        "RuntimeMaxSec": str(params["timeout"]),
        "NoNewPrivileges": "yes",
        "PrivateTmp": "yes",
        "ProtectSystem": "strict",
        "ReadWritePaths": params["base"],
    }
    argv = [str(python), "-m", "pip", "wheel", "--verbose", "--no-build-isolation", "--no-deps"]
    argv += ["--no-index", "--no-cache-dir", "--disable-pip-version-check"]
    argv += ["--wheel-dir", str(places.staging), str(tree)]
    known = {"jobs": jobs, "record": params["record"]}
    start(places, unit_of(params["key"]), argv, env, limits, known)
    return {**look(params, places), "changed": True}


def require_name(unpacked: Path, params: dict[str, Any]) -> None:
    """Refuse a wheel that is not what was to be built.

    Raises:
        HostError: its metadata say another name or version.
    """
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    words = email.message_from_string(metadata.read_text(encoding="utf-8"))
    if (words["Name"], words["Version"]) != (params["name"], params["version"]):
        raise HostError(
            f"the wheel says {words['Name']} {words['Version']}, and {params['name']} "
            f"{params['version']} was to be built"
        )


def prove(unpacked: Path, truth: Truth, python: Path) -> dict[str, str]:
    """Load each compiled module in a process of its own; return how each fared.

    Raises:
        HostError: one does not load, or this processor can load none of them.
    """
    fared: dict[str, str] = {}
    for name in truth.modules:
        ended = run([str(python), "-I", "-c", LOAD, str(unpacked / name)], timeout=300)
        if ended.status == 0:
            fared[name] = "loads"
        elif ended.status == ILLEGAL_INSTRUCTION:
            fared[name] = "is for another processor than this host's"
        else:
            raise HostError(f"the wheel was built, but {name} does not load: {ended.tail(15)}")
    if fared and "loads" not in fared.values():
        raise HostError(f"this host's processor can load none of {', '.join(fared)}")
    return fared


def wheel_tool(python: Path, *words: str) -> None:
    """Run the tool C(wheel) of the build's environment.

    Raises:
        HostError: it found fault.
    """
    ended = run([str(python), "-I", "-m", "wheel", *words], timeout=900)
    if ended.status != 0:
        raise HostError(f"wheel {words[0]} found fault: {ended.tail(15)}")


def finish(params: dict[str, Any], places: Places) -> tuple[Path, Truth, dict[str, str]]:
    """Examine, prove and name the wheel; return it with what was found.

    Raises:
        HostError: it is not what its name would say.
    """
    python = Path(params["prefix"]) / "bin/python"
    (wheel,) = places.staging.glob("*.whl")
    spread = places.staging / "unpacked"
    shutil.rmtree(spread, ignore_errors=True)
    # Compares every file with RECORD.
    wheel_tool(python, "unpack", "--dest", str(spread), str(wheel))
    (unpacked,) = spread.iterdir()
    require_name(unpacked, params)
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = run([str(python), "-I", "-c", code], timeout=60).output.strip()
    truth = examine(unpacked, version, platform.libc_ver()[1])
    fared = prove(unpacked, truth, python)
    shutil.rmtree(spread)
    python_tag, abi, machine = truth.tag.split("-", 2)
    words = ["--remove", "--python-tag", python_tag, "--abi-tag", abi, "--platform-tag", machine]
    wheel_tool(python, "tags", *words, str(wheel))
    (wheel,) = places.staging.glob("*.whl")
    if not wheel.name.endswith(f"-{truth.tag}.whl"):
        raise HostError(f"the wheel is called {wheel.name}, and its tag must be {truth.tag}")
    return wheel, truth, fared


def publish(params: dict[str, Any], places: Places) -> dict[str, Any]:
    """Publish a build that has ended: all in one rename, build.json being the last file made.

    Raises:
        HostError: the wheel is not fit to be published; nothing is left that looks like one.
    """
    seen = look(params, places)
    if seen["phase"] == PUBLISHED:
        return seen
    if seen["phase"] != ENDED:
        raise HostError(f"there is no build that has ended: {seen['phase']} {seen['reason']}")
    try:
        wheel, truth, fared = finish(params, places)
    except BaseException:
        # What failed here fails again; the next run builds anew, quickly, from ccache.
        places.result.unlink(missing_ok=True)
        places.state.unlink(missing_ok=True)
        shutil.rmtree(places.staging, ignore_errors=True)
        raise
    build = {
        # A run that joined the build has prepared nothing and knows less.
        **params["record"],
        **seen["record"],
        "filename": wheel.name,
        "sha256": sha256_of(wheel),
        "size": wheel.stat().st_size,
        "tag": truth.tag,
        "key": params["key"],
        "name": params["name"],
        "version": params["version"],
        "glibc": truth.glibc,
        "needs": truth.needs,
        "libraries": truth.libraries,
        "modules": fared,
        "steps": (seen["progress"] or {}).get("total"),
        "seconds": seen["elapsed"],
        "jobs": seen["jobs"],
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    fresh = places.wheels.with_name(f".{places.wheels.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o755, parents=True)
    wheel.chmod(0o644)
    wheel.rename(fresh / wheel.name)
    write_atomic(fresh / "build.json", as_json(build).encode(), 0o644)
    shutil.rmtree(places.wheels, ignore_errors=True)
    fresh.rename(places.wheels)
    sync_directory(places.wheels.parent)
    shutil.rmtree(places.work, ignore_errors=True)
    return {**look(params, places), "changed": True}


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Do one step and return how far the build is."""
    params = module.params
    places = Places.of(Path(params["base"]), params["key"])
    if params["step"] in (None, "look") or module.check_mode:
        return look(params, places)
    if params["step"] == "start":
        return begin(params, places)
    return publish(params, places)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["look", "start", "publish"]},
            "key": {"type": "str", "required": True, "no_log": False},
            "base": {"type": "path", "default": "/var/cache/vllm-build"},
            "name": {"type": "str", "default": "vllm"},
            "version": {"type": "str", "required": True},
            "tree": {"type": "path"},
            "prefix": {"type": "path"},
            "requirements_file": {"type": "str"},
            "runtime_file": {"type": "str"},
            "env": {"type": "dict", "default": {}},
            "jobs": {"type": "int", "default": 0},
            "job_mib": {"type": "int", "default": 2048},
            "weight": {"type": "int", "default": 20},
            "record": {"type": "dict", "default": {}},
            "lines": {"type": "int", "default": 40},
            "every": {"type": "int", "default": 10},
            "timeout": {"type": "int", "default": 21600},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    conclude(module, ensure, f"the build {module.params['key']} could not be done")


if __name__ == "__main__":
    main()
