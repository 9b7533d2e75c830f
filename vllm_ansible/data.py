"""The project's data (`group_vars/all/*.yml` and the lock files), read once, typed and checked."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError

from vllm_ansible import paths

if TYPE_CHECKING:
    from pathlib import Path

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Url = Annotated[str, StringConstraints(pattern=r"^(https?|git|ssh|file)://[^\s]+$")]
VLLM_VERSION = r"^\d+(\.\d+)+(\.post\d+)?$"
Device = Literal["cpu", "gpu"]
TorchSource = Literal["cpu-index", "default-index"]
# What a model is served for: a chat, a chat with images, or vectors.
Kind = Literal["text", "vision", "embedding"]


class DataError(Exception):
    """The project's own data is wrong: names the file, the entry and what is expected."""


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resolve(_Data):
    """What `scripts/lock-engine` must be told to resolve a release as it was meant.

    Attributes:
        before: Files uploaded on this day (UTC) or later are not looked at.
        pins: Further requirements (`name==version`), such as what a package needs and does not say.
        overrides: Requirements that replace whatever packages ask for.
        leave_out: Packages that are not wanted, whatever asks for them.
    """

    before: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")] | None = None
    pins: list[str] = Field(default_factory=list)
    overrides: list[str] = Field(default_factory=list)
    leave_out: list[str] = Field(default_factory=list)


class VllmVersion(_Data):
    """What is known of one vLLM release.

    Attributes:
        python: The versions of Python that it supports.
        torch: The version that it pins.
        devices: What it is installed for.
        resolve: How its lock files are resolved.
        sdist: SHA-256 of its source archive, as the package index states it.
    """

    python: str
    torch: str
    devices: list[Device]
    sdist: Sha256 | None = None
    resolve: Resolve = Resolve()

    def supports(self, python: str) -> bool:
        """Whether this release runs on a Python such as `3.10`."""
        return Version(python) in SpecifierSet(self.python)


class SecurityFloor(_Data):
    """Flaws that every version below `fixed_in` carries."""

    fixed_in: str
    ids: list[str]
    refused: bool


class FlagSpan(_Data):
    """The versions that know a flag: from `since` on, before `until`."""

    since: str | None = None
    until: str | None = None


class GpuFloor(_Data):
    """What the GPU wheels from a vLLM version on ask of a host.

    Attributes:
        vllm_from: The first version that this holds for; it holds up to the next entry's.
        cuda: The CUDA that they are built for.
        driver: The oldest branch of the NVIDIA driver.
        compute_capability: The oldest GPU, in NVIDIA's numbers.
        newest_capability: The newest major number that they have kernels for, where it is bounded.
        glibc: The oldest C library, where the wheel's tag says so.
        memory_share: The share of a GPU's memory that an engine takes unless it is told otherwise.
        uuids: Whether the engine understands a GPU's UUID in CUDA_VISIBLE_DEVICES.
    """

    vllm_from: str
    cuda: str
    driver: int
    compute_capability: str
    newest_capability: int | None = None
    glibc: str | None = None
    memory_share: float = Field(gt=0, le=1)
    uuids: bool


class CpuWheels(_Data):
    """The official CPU wheels: since which vLLM there are any, and the oldest glibc for them."""

    since: str
    glibc: str


class Build(_Data):
    """How vLLM is built from source for CPU, from version `since` on.

    Attributes:
        since: The first version that is built so.
        requirements: The file in its tree that names what the build needs.
        runtime: The file in its tree that names what the result needs.
        compiler: The oldest g++ that compiles it.
        onednn: The tag of oneDNN that its CMake files fetch; None where they fetch none.
    """

    since: str
    requirements: str
    runtime: str
    compiler: str
    onednn: str | None = None


class AmdKernels(_Data):
    """Kernels for AMD's processors with AVX512.

    Attributes:
        requirements: What is installed besides, by vLLM version.
        hashes: SHA-256 of their wheels, by name.
    """

    requirements: dict[str, list[str]]
    hashes: dict[str, list[Sha256]]


class Versions(_Data):
    """The content of versions.yml."""

    default_vllm: str
    default_python: str
    pythons: list[str]
    vllm: dict[str, VllmVersion]
    security_floors: list[SecurityFloor]
    cpu_wheels: CpuWheels
    builds: list[Build]
    build_needs: list[str]
    build_tools: list[str]
    amd_kernels: AmdKernels
    flags: dict[str, FlagSpan]
    gpu_floors: list[GpuFloor]
    auto_length_since: str
    json_limits_since: str
    config_file_since: str
    config_builds_since: str
    one_process_since: str
    uv: str
    default_miniconda: str
    miniconda: dict[str, dict[str, Sha256]]

    def flaws(self, version: str) -> list[SecurityFloor]:
        """The known flaws of a vLLM version, oldest fix first."""
        return [f for f in self.security_floors if Version(version) < Version(f.fixed_in)]

    def has_cpu_wheel(self, version: str) -> bool:
        """Whether there is an official CPU wheel of a vLLM version."""
        return Version(version) >= Version(self.cpu_wheels.since)

    def build_of(self, version: str) -> Build:
        """How a vLLM version is built from source."""
        return [one for one in self.builds if Version(version) >= Version(one.since)][-1]

    def knows_flag(self, version: str, flag: str) -> bool:
        """Whether a vLLM version has a flag; a flag without an entry is taken to exist."""
        span = self.flags.get(flag, FlagSpan())
        since = span.since is None or Version(version) >= Version(span.since)
        return since and (span.until is None or Version(version) < Version(span.until))

    def gpu_floor(self, version: str) -> GpuFloor:
        """What a vLLM version's GPU wheel asks of a host."""
        below = [f for f in self.gpu_floors if Version(version) >= Version(f.vllm_from)]
        return max(below or self.gpu_floors[:1], key=lambda floor: Version(floor.vllm_from))

    def has_auto_length(self, version: str) -> bool:
        """Whether a version can be told to find the longest context that its memory holds."""
        return Version(version) >= Version(self.auto_length_since)

    def has_json_limits(self, version: str) -> bool:
        """Whether a version takes its limits of images per prompt as JSON."""
        return Version(version) >= Version(self.json_limits_since)

    def has_one_process(self, version: str) -> bool:
        """Whether a version's engine on the CPU can do without a worker of its own."""
        return Version(version) >= Version(self.one_process_since)

    def has_config_file(self, version: str) -> bool:
        """Whether `vllm serve` of a version takes all that we say from its `--config` file."""
        return Version(version) >= Version(self.config_file_since)

    def builds_config(self, version: str) -> bool:
        """Whether a version builds its engine's configuration without a GPU's or model's help."""
        return Version(version) >= Version(self.config_builds_since)


class CondaMirror(_Data):
    """Channels as `.condarc` names them."""

    default_channels: list[Url] = Field(default_factory=list)
    custom_channels: dict[str, Url] = Field(default_factory=dict)


class PackageMirror(_Data):
    """Package indexes; a null default leaves the client its own."""

    default_index: Url | None = None
    engine_indexes: list[Url] = Field(default_factory=list)
    torch_indexes: list[Url] = Field(default_factory=list)
    torch_find_links: list[Url] = Field(default_factory=list)


class Profile(_Data):
    """One set of mirrors."""

    miniconda: list[Url] = Field(default_factory=list)
    conda: CondaMirror = CondaMirror()
    packages: PackageMirror = PackageMirror()
    git: list[Url] = Field(default_factory=list)


class Mirrors(_Data):
    """The content of mirrors.yml."""

    default_profile: str
    profiles: dict[str, Profile]


class FileSum(_Data):
    """Size in bytes and checksum of one file of a model."""

    size: int = Field(ge=0)
    sha256: Sha256


class Source(_Data):
    """One place to fetch a model from.

    Attributes:
        kind: How it is read; see `library/model_snapshot.py`.
        url: Its address; `file://` is a place on the host that fetches.
        revision: Its own commit, where that differs from the model's.
        branch: In the place of a commit, at a hub of which none is known: only what `files` of the
            model lists is taken from it.
        sha256: Of an archive.
        token: For a gated model, out of a vault.
        token_file: A file on the controller with it.
    """

    kind: Literal["archive", "directory", "files", "git-lfs", "huggingface", "modelscope"]
    url: Url
    revision: Commit | None = None
    branch: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")] | None = (
        None
    )
    sha256: Sha256 | None = None
    token: SecretStr | None = None
    token_file: str | None = None


class Model(_Data):
    """A model of the catalogue; also what `vllm_models` of an inventory adds.

    Attributes:
        kind: What it is served for.
        context: The longest text that it was made for, in tokens.
        kv_bytes_per_token: Bytes of KV cache that one token takes in a format of 2 bytes; 0 for an
            encoder, which keeps none.
        attention_heads: Attention heads of a layer, by which several GPUs share it.
        vllm_since: The first version of vLLM that serves it, where not all that we know do.
        sources: Places to fetch it from, in order.
        revision: Its commit.
        size_bytes: Size of all files, where that is known and `files` do not say it.
        include: Patterns of the files wanted.
        files: What the files must be, whichever source they come from, where that is known.
    """

    kind: Kind = "text"
    context: int | None = Field(default=None, ge=16)
    kv_bytes_per_token: int | None = Field(default=None, ge=0)
    attention_heads: int | None = Field(default=None, ge=1)
    vllm_since: Annotated[str, StringConstraints(pattern=VLLM_VERSION)] | None = None
    size_bytes: Annotated[int, Field(ge=0)] | None = None
    sources: list[Source] = Field(min_length=1)
    revision: Commit
    include: list[str] = Field(default_factory=lambda: ["*"], min_length=1)
    files: dict[str, FileSum] = Field(default_factory=dict)


class Lock(_Data):
    """One lock file.

    Attributes:
        pins: Requirements with versions, `name==version`, each name once.
        hashes: SHA-256 of the files that may be installed, by name; a name is missing where the
            file differs by source (the engine's own wheel for CPU, torch of the CPU index).
    """

    pins: list[str]
    hashes: dict[str, list[Sha256]]


class WebuiData(_Data):
    """What the web UI is made of.

    Attributes:
        lock: Its environment.
        code: SHA-256 of the files of its own code, by path below its package's folder.
    """

    lock: Lock = Lock(pins=[], hashes={})
    code: dict[str, Sha256] = Field(default_factory=dict)


class Data(_Data):
    """All that a decision may look up besides the inventory's words and the host's facts.

    `locks` maps (vLLM version, device, Python, source of torch) to what is locked for it; `webui`
    is what the web UI is made of.
    `code_digest` changes when what carries the plan out (roles, modules) does: a receipt made by
    other code is no proof that a host is as this code would leave it.
    """

    versions: Versions
    mirrors: Mirrors
    models: dict[str, Model]
    locks: dict[tuple[str, str, str, str], Lock]
    webui: WebuiData = WebuiData()
    code_digest: str = ""


LOCK_NAME = re.compile(
    r"vllm-(?P<version>.+)-(?P<device>cpu|gpu)-py(?P<python>3\.\d+)"
    r"-(?P<source>cpu-index|default-index)\.txt"
)
_PIN = re.compile(r"(?P<name>[a-z0-9]+(-[a-z0-9]+)*)==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_HASH = "--hash=sha256:"
_PARTS = ("defaults", "files", "handlers", "tasks", "templates", "vars")
_CARRIERS = tuple(f"roles/*/{part}" for part in _PARTS)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a mapping at the top")
    return content


def read_lock(path: Path) -> Lock:
    """Reads a lock file: pip's requirement format, a pin with its `--hash=sha256:` words.

    Raises:
        DataError: A line is neither a comment nor a pin, or a name is pinned twice.
    """
    text = path.read_text("utf-8").replace("\\\n", " ")
    pins, hashes = [], {}
    for line in (raw for raw in text.splitlines() if raw and not raw.startswith("#")):
        pin, *words = line.split()
        match = _PIN.fullmatch(pin)
        if match is None or not all(word.startswith(_HASH) for word in words):
            raise DataError(f"{path}: expected name==version --hash=sha256:..., not {line}")
        pins.append(pin)
        if words:
            hashes[match["name"]] = [word.removeprefix(_HASH) for word in words]
    if len({pin.split("==")[0] for pin in pins}) != len(pins):
        raise DataError(f"{path}: a name is pinned twice")
    return Lock(pins=pins, hashes=hashes)


def _locks(folder: Path) -> dict[tuple[str, str, str, str], Lock]:
    """Reads every lock file."""
    found = {}
    for path in sorted(folder.glob("*.txt")):
        match = LOCK_NAME.fullmatch(path.name)
        if match is None:
            raise DataError(f"{path}: the name does not say version, device, Python and source")
        key = (match["version"], match["device"], match["python"], match["source"])
        found[key] = read_lock(path)
    return found


def _webui(folder: Path) -> WebuiData:
    """Reads the web UI's lock file and code."""
    code = folder / "vllm_webui"
    files = sorted(f for f in code.rglob("*") if f.is_file() and f.suffix != ".pyc")
    return WebuiData(
        lock=read_lock(folder / "requirements.txt"),
        code={
            str(file.relative_to(code)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
        },
    )


def code_digest(project: Path) -> str:
    """A checksum (hex) over the roles and modules that carry a plan out."""
    folders = [f for pattern in _CARRIERS for f in project.glob(pattern)]
    folders += [project / "library", project / "module_utils"]
    files = sorted(
        f for top in folders for f in top.rglob("*") if f.is_file() and f.suffix != ".pyc"
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(project)}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def load_data(folder: Path, locks: Path, digest: str = "", webui: Path | None = None) -> Data:
    """Reads and checks the data in `folder`, the lock files in `locks` and the web UI's folder.

    A folder of lock files may bring, in `versions.yml`, what is known of versions of vLLM that
    `folder` does not name.

    Raises:
        DataError: A file cannot be read or an entry is wrong.
    """
    try:
        versions = _read(folder / "versions.yml")["vllm_data_versions"]
        if (more := locks / "versions.yml").is_file():
            versions["vllm"] = _read(more)["vllm"] | versions["vllm"]
        return Data(
            versions=versions,
            mirrors=_read(folder / "mirrors.yml")["vllm_data_mirrors"],
            models=_read(folder / "models.yml")["vllm_data_models"],
            locks=_locks(locks),
            webui=_webui(webui) if webui else WebuiData(),
            code_digest=digest,
        )
    except KeyError as error:
        raise DataError(f"{folder}: {error} is missing") from error
    except ValidationError as error:
        raise DataError(f"{folder}: {error}") from error


@cache
def project_data() -> Data:
    """The project's own data."""
    return load_data(paths.DATA, paths.LOCKS, code_digest(paths.PROJECT), paths.WEBUI)
