"""Environments in which a vLLM version's own argument parser runs, as small as its imports allow.

vLLM's Python code is taken from its source package, unchanged and not built: the parser needs no
kernel. What it imports comes from the version's lock file, less what is large and not needed. torch
is one for all versions, as the parser asks of it only that it can be imported.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from vllm_ansible import paths
from vllm_ansible.data import read_lock
from vllm_ansible.locking.sdist import source_package

CACHE = paths.CACHE / "parsers"
# The one that all of these versions run on.
PYTHON = "3.11"
TORCH = "2.13.0"
# The wheel of orjson 3.13.0 for that Python.
ORJSON = "89bcf2d4bc6c9a7e1763c8cf534f38712e66b76a0fefda7fb7785462f0d635e4"
# Large, and not imported by the parsers: kernels, compilers, what few models or clusters use.
LEFT_OUT = (
    "cmake", "cupy", "flashinfer", "intel-", "llvmlite", "numba", "nvidia-", "pandas", "pyarrow",
    "ray", "torch", "triton", "vllm", "xformers",
)  # fmt: skip


class EnvironmentFailedError(Exception):
    """A parser cannot be had: what was tried, and what it said."""


@dataclass(frozen=True)
class Parser:
    """One vLLM version whose parser is asked.

    Attributes:
        version: The version.
        lock: The version and device of the lock file that its imports come from.
        needs: What it imports of that which is left out.
        beside: What it imports that the lock does not have, in pip's format with hashes.
    """

    version: str
    lock: tuple[str, str]
    needs: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def home(self) -> Path:
        """The environment's directory."""
        return CACHE / self.version

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.home / "bin" / "python"

    def requirements(self) -> str:
        """What is installed, in pip's format with hashes."""
        version, device = self.lock
        source = "cpu-index" if device == "cpu" else "default-index"
        lock = read_lock(paths.LOCKS / f"vllm-{version}-{device}-py{PYTHON}-{source}.txt")
        lines = [f"{one}\n" for one in self.beside]
        for pin in lock.pins:
            name = pin.split("==")[0]
            if not name.startswith(LEFT_OUT) or name in self.needs:
                hashes = "".join(f" --hash=sha256:{one}" for one in lock.hashes[name])
                lines.append(f"{pin}{hashes}\n")
        return "".join(lines)

    def make(self) -> None:
        """Makes the environment, unless it is there and made of the same.

        Raises:
            EnvironmentFailedError: Something cannot be had or installed.
        """
        requirements = self.requirements()
        content = Path(__file__).read_bytes() + requirements.encode()
        key = hashlib.sha256(content).hexdigest()
        stamp = self.home / "made-from"
        if stamp.is_file() and stamp.read_text("utf-8") == key:
            return
        shutil.rmtree(self.home, ignore_errors=True)
        run("uv", "venv", "--quiet", "--no-project", "--python", PYTHON, str(self.home))
        listed = self.home / "requirements.txt"
        listed.write_text(requirements, "utf-8")
        self._install("--no-deps", "--require-hashes", "--requirement", str(listed))
        torch = fetch_torch()
        # Its build for CUDA does not load without the libraries that it asks for.
        self._install(*(["--no-deps"] if "+cpu" in torch.name else []), str(torch))
        self._unpack()
        stamp.write_text(key, "utf-8")

    def _install(self, *words: str) -> None:
        run("uv", "pip", "install", "--quiet", "--python", str(self.python), *words)

    def _unpack(self) -> None:
        """Puts vLLM's code in place, and what says which version it is."""
        archive = self.home / "vllm.tar.gz"
        archive.write_bytes(source_package(self.version, PYTHON))
        packages = self.home / "lib" / f"python{PYTHON}" / "site-packages"
        top = f"vllm-{self.version}/"
        with tarfile.open(archive) as package:
            for member in package.getmembers():
                if member.name.startswith(f"{top}vllm/"):
                    member.name = member.name.removeprefix(top)
                    package.extract(member, packages, filter="data")
        archive.unlink()
        # By its version's ending vLLM knows that it computes on the CPU; a parser wants a device.
        info = packages / f"vllm-{self.version}+cpu.dist-info"
        info.mkdir()
        text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {self.version}+cpu\n"
        (info / "METADATA").write_text(text, "utf-8")


def fetch_torch() -> Path:
    """torch's wheel, as pip finds it with its own configuration.

    With PyTorch's CPU index in that (PIP_EXTRA_INDEX_URL) it is 0.2 GB; else it is the build for
    CUDA, which pulls 5 GB.
    """
    folder = CACHE / "torch"
    pattern = f"torch-{TORCH}*.whl"
    if not any(folder.glob(pattern)):
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        words += ["--only-binary=:all:", f"--python-version={PYTHON}"]
        words += ["--platform=manylinux_2_28_x86_64", "--dest", str(folder), f"torch=={TORCH}"]
        run(*words)
    return next(folder.glob(pattern))


def run(*words: str) -> None:
    """Runs a program.

    Raises:
        EnvironmentFailedError: It fails, with the end of what it said.
    """
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EnvironmentFailedError(f"{' '.join(words)}: {done.stderr.strip()[-2000:]}")


# 0.33.0 is not among the supported versions (versions.yml says why): its own requirements cannot be
# met. Those of 0.32.0 and orjson are enough for its parser.
PARSERS = [
    Parser("0.5.0.post1", ("0.5.0.post1", "gpu"), needs=("triton",)),
    Parser("0.6.3.post1", ("0.6.3.post1", "cpu")),
    Parser("0.11.0", ("0.11.0", "cpu")),
    Parser("0.31.0", ("0.31.0", "cpu")),
    Parser("0.32.0", ("0.32.0", "cpu")),
    Parser("0.33.0", ("0.32.0", "cpu"), beside=(f"orjson==3.13.0 --hash=sha256:{ORJSON}",)),
]
