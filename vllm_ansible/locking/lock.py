"""One lock: made anew, written, and compared with what versions.yml asks for."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from vllm_ansible.data import Lock, read_lock
from vllm_ansible.locking import uv
from vllm_ansible.locking.sdist import cpu_requirements
from vllm_ansible.locking.uv import LockError, Question

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_ansible.data import Device, TorchSource, Versions, VllmVersion

# Left out for the CPU: built for CUDA they break transformers beside a +cpu torch, and neither
# text nor images need them.
LEFT_OUT = ["torchaudio", "torchcodec"]
# Built together: on the PyTorch CPU index their versions end with +cpu, and their files differ.
OF_TORCH = ("torch", "torchvision")
# What torch's build for CUDA brings along and its build for CPU does not.
CUDA_ONLY = re.compile(r"nvidia-.*|cuda-.*|triton")
# Raised when this code resolves otherwise: locks that were made before are stale then.
METHOD = 2


@dataclass(frozen=True)
class Target:
    """What is resolved together; for the CPU with torch from either source."""

    version: str
    device: Device
    python: str

    def __str__(self) -> str:
        """The target in words."""
        return f"vLLM {self.version}, {self.device}, Python {self.python}"

    @property
    def sources(self) -> list[TorchSource]:
        """Where torch may come from; there is a lock file for each."""
        return ["cpu-index", "default-index"] if self.device == "cpu" else ["default-index"]

    def filename(self, source: TorchSource) -> str:
        """The name of a lock file."""
        return f"vllm-{self.version}-{self.device}-py{self.python}-{source}.txt"

    def unhashed(self, source: TorchSource) -> list[str]:
        """What is pinned without a hash: its file differs by where it comes from."""
        if self.device == "gpu":
            return []
        return [*(OF_TORCH if source == "cpu-index" else ()), "vllm"]


def targets(versions: Versions) -> list[Target]:
    """Everything that an inventory may ask for, in the order of versions.yml."""
    return [
        Target(version, device, python)
        for version, known in versions.vllm.items()
        for device in known.devices
        for python in versions.pythons
        if known.supports(python)
    ]


def inputs_digest(target: Target, known: VllmVersion) -> str:
    """A checksum (12 hex digits) of all that a lock is made from but the day."""
    content = [METHOD, uv.GLIBC, asdict(target), known.torch, known.resolve.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def make(target: Target, known: VllmVersion, kept: list[str]) -> dict[TorchSource, Lock]:
    """Resolves a target; `kept` are pins that stay where they can.

    The lock for torch from the CPU index is cut out of the other one's resolution: that index
    need not be reachable, and both are the same but for torch.

    Raises:
        LockError: There is no solution, an index does not answer, or torch is not the known one.
    """
    said, cpu = known.resolve, target.device == "cpu"
    engine = f"vllm=={target.version}"
    asked = cpu_requirements(target.version, target.python) if cpu else [engine]
    if cpu:
        # It asks for torch+cpu, which is on the PyTorch CPU index only.
        asked = [*(one for one in asked if _name(one) != "torch"), f"torch=={known.torch}"]
    question = Question(
        requirements=[*asked, *said.pins],
        python=target.python,
        before=said.before,
        overrides=said.overrides,
        leave_out=[*said.leave_out, *(LEFT_OUT if cpu else [])],
        kept=[pin for pin in kept if not pin.startswith("vllm==")],
    )
    pins = uv.resolve(question)
    if f"torch=={known.torch}" not in pins:
        found = next((pin for pin in pins if pin.startswith("torch==")), "no torch")
        raise LockError(f"versions.yml has torch {known.torch}, vLLM wants {found}")
    files = uv.distributions(pins, question)
    lock = Lock(pins=pins, hashes={_name(pin): uv.hashes(files[_name(pin)]) for pin in pins})
    if not cpu:
        return {"default-index": lock}
    wanted = {_name(line) for line in asked}
    return {
        "cpu-index": _with_engine(_for_cpu_index(lock, wanted), target.version),
        "default-index": _with_engine(lock, target.version),
    }


def _name(requirement: str) -> str:
    """The normalised name of a requirement."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[=<>!~;]", requirement)[0]).lower()


def _for_cpu_index(lock: Lock, wanted: set[str]) -> Lock:
    """The lock with torch's build for CPU, and without what only its build for CUDA needs."""
    kept = [pin for pin in lock.pins if _name(pin) in wanted or not CUDA_ONLY.fullmatch(_name(pin))]
    pins = [f"{pin}+cpu" if _name(pin) in OF_TORCH else pin for pin in kept]
    hashed = {_name(pin) for pin in pins} - set(OF_TORCH)
    return Lock(pins=pins, hashes={name: lock.hashes[name] for name in hashed})


def _with_engine(lock: Lock, version: str) -> Lock:
    """The lock with the engine itself, whose wheel is another one on each source."""
    return Lock(pins=[*lock.pins, f"vllm=={version}+cpu"], hashes=lock.hashes)


def write(path: Path, target: Target, source: TorchSource, known: VllmVersion, lock: Lock) -> None:
    """Writes a lock file, sorted, in pip's format."""
    torch = "the CPU index" if source == "cpu-index" else "the default index"
    lines = [
        f"# {target}, x86_64 with glibc {uv.GLIBC}, torch from {torch}.",
        "# Made by scripts/lock-engine (see docs/locks.md); installed without dependencies.",
        f"# Inputs: {inputs_digest(target, known)}",
    ]
    for pin in sorted(lock.pins, key=_name):
        words = [pin, *(f"--hash=sha256:{one}" for one in lock.hashes.get(_name(pin), []))]
        lines.append(" \\\n    ".join(words))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def flaw(folder: Path, target: Target, source: TorchSource, known: VllmVersion) -> str | None:
    """What is wrong with a target's lock file, or None."""
    path = folder / target.filename(source)
    if not path.is_file():
        return "missing"
    if f"# Inputs: {inputs_digest(target, known)}\n" not in path.read_text("utf-8"):
        return "stale: versions.yml or the way of resolving changed since it was made"
    lock = read_lock(path)
    names = [_name(pin) for pin in lock.pins]
    for needed in (*(OF_TORCH if target.device == "cpu" else OF_TORCH[:1]), "vllm"):
        if needed not in names:
            return f"not whole: it does not pin {needed}"
    bare = [name for name in names if name not in lock.hashes]
    if bare != target.unhashed(source):
        return f"not whole: no hash for {bare}, where {target.unhashed(source)} have none"
    return None


def strangers(folder: Path, versions: Versions) -> list[str]:
    """Lock files of what versions.yml does not support (any longer)."""
    known = {one.filename(source) for one in targets(versions) for source in one.sources}
    return sorted(path.name for path in folder.glob("*.txt") if path.name not in known)
