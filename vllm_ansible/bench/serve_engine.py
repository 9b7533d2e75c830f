"""An environment with vLLM on this computer: a release's, or one made from the project's lock."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vllm_ansible.bench.serve_report import ServeError
from vllm_ansible.data import project_data
from vllm_ansible.paths import LOCKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_ansible.lab.system import Progress

CURRENT = Path("/opt/vllm/current")
_READ = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
numbers = torch.ones(2**27)  # 512 MiB: no cache holds it
best = 9.0
for _ in range(8):
    begun = time.perf_counter(); numbers.sum(); best = min(best, time.perf_counter() - begun)
print(numbers.nbytes / best / 1e9)
"""


class Environment(NamedTuple):
    """An environment with vLLM: where it is, and which version."""

    prefix: Path
    version: str


def environment(
    said: Path | None, cache: Path, progress: Progress, more: Sequence[str] = ()
) -> Environment:
    """The environment to measure with.

    Args:
        said: One that is there already; None takes this computer's release, or makes one.
        cache: Where one is made.
        progress: Told that it is.
        more: Requirements besides the lock's, for one that is made.

    Raises:
        ServeError: There is none and none can be made.
    """
    prefix = said or (CURRENT if CURRENT.is_dir() else _made(cache, progress, more))
    python = prefix / "bin" / "python"
    code = "import importlib.metadata as m; print(m.version('vllm'))"
    if not python.exists():
        raise ServeError(f"{prefix} is no environment: it has no bin/python")
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServeError(f"{prefix} has no vLLM: {done.stderr[-300:].strip()}")
    return Environment(prefix, done.stdout.strip())


def read_bandwidth(one: Environment, threads: int) -> float:
    """GB/s that so many threads read from memory, the best of several runs."""
    program = [str(one.prefix / "bin" / "python"), "-c", _READ, str(threads)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServeError(f"the memory's bandwidth could not be measured: {done.stderr[-300:]}")
    return round(float(done.stdout.split()[-1]), 1)


def _made(cache: Path, progress: Progress, more: Sequence[str]) -> Path:
    """From the lock, with the wheel that the lab's origin serves: the default index has none."""
    from tests.origin.downloads import pinned, wheels  # noqa: PLC0415  # part of a checkout
    from tests.origin.engine_wheel import rename  # noqa: PLC0415
    from tests.origin.errors import OriginError  # noqa: PLC0415
    from tests.origin.interpreter import find  # noqa: PLC0415

    python = project_data().versions.default_python
    version = next(iter(pinned("engine"))).partition("==")[2]
    lock = LOCKS / f"vllm-{version}-cpu-py{python}-default-index.txt"
    prefix = cache / "-".join(["engine", f"{version}+cpu", *more])
    if (prefix / ".complete").is_file():
        return prefix
    progress(f"an environment is made from {lock.name} in {prefix} (6 GB)")
    shutil.rmtree(prefix, ignore_errors=True)
    folder = cache / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        rename(wheels("engine", cache / "downloads", progress)[0], folder)
        interpreter = find(cache)
    except OriginError as error:
        raise ServeError(str(error)) from error
    _uv("venv", "--python", str(interpreter.program), str(prefix))
    _uv(
        "pip", "install", "--python", str(prefix / "bin/python"), "--no-deps",
        "--compile-bytecode", "--find-links", str(folder), "--requirement", str(lock), *more,
    )  # fmt: skip
    (prefix / ".complete").touch()
    return prefix


def _uv(*words: str) -> None:
    done = subprocess.run(["uv", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServeError(f"uv {words[0]} failed: {done.stderr[-800:]}")
