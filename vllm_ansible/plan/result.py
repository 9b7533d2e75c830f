"""The plan's result: every decision for one host, as playbooks and people see it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from vllm_ansible.data import Device, FileSum, Kind, Sha256, TorchSource

PLAN_FORMAT = 1


class PlanError(Exception):
    """A host cannot take what its inventory asks for.

    Attributes:
        host: The host's name.
        problems: One sentence each, with the figure that is missing and the way out.
    """

    def __init__(self, host: str, problems: list[str]) -> None:
        self.host = host
        self.problems = problems
        super().__init__("\n".join(f"{host}: {problem}" for problem in problems))


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reason(_Part):
    """Why a value was chosen."""

    subject: str
    value: str
    why: str


class Release(_Part):
    """One complete environment; `id` changes with everything in it."""

    id: str
    path: str
    version: str
    device: Device
    python: str
    vllm: str
    torch: str
    torch_source: TorchSource


class Miniconda(_Part):
    """The installer, its sources in order, and what conda and pip are told.

    `users` are those for whom `conda activate vllm` works.
    """

    prefix: str
    version: str
    filename: str
    sha256: str
    urls: list[str]
    condarc: dict[str, Any]
    pip_conf: dict[str, dict[str, str]]
    users: list[str]


class Environment(_Part):
    """The conda environment."""

    prefix: str
    packages: list[str]


class Packages(_Part):
    """What is installed into it, and from where. `locked`: every version is pinned.

    `hashes`: the SHA-256 of each requirement's files by name, where they are the same everywhere.
    `http_timeout`: seconds without a byte after which a download is given up.
    """

    requirements: list[str]
    hashes: dict[str, list[Sha256]] = Field(default_factory=dict)
    locked: bool
    indexes: list[str]
    default_index: str | None
    find_links: list[str]
    http_timeout: int
    uv: str


class WheelOrder(_Part):
    """The engine's wheel where it is compiled at the site.

    Attributes:
        key: Names everything that the wheel is made from; wheels of one key are exchangeable.
        project: The distribution's name.
        version: The version in the wheel's name, such as `0.31.0+cpu`.
        python: The environment's Python.
        architecture: The processor's.
        glibc: The host's; the wheel must not want a newer one.
    """

    key: str
    project: str = "vllm"
    version: str
    python: str
    architecture: str
    glibc: str | None


class ModelSnapshot(_Part):
    """One model at one revision; size in bytes where it is known.

    A source has `kind`, `url` and what else the module `model_snapshot` takes; `credential` is a
    fingerprint of the token that it asks for, which itself is not in the plan.
    """

    name: str
    revision: str
    path: str
    sources: list[dict[str, str]]
    include: list[str]
    files: dict[str, FileSum]
    size_bytes: int | None
    parallel: int = 4
    limit_mib_s: float | None = None


class PlacedFile(_Part):
    """A file that an instance reads: where it lies on the host, what it says. No secrets."""

    path: str
    content: str


class Rehearsal(_Part):
    """An instance under another name, for the proof that it can be started.

    `command` are the words that its version's own code is handed to take them; `builds`: whether
    that code also builds the engine's configuration of them, or only reads them.
    """

    name: str
    socket: str | None
    address: str | None
    drop_in: list[str]
    config: dict[str, Any]
    files: list[PlacedFile]
    environment: dict[str, str]
    command: list[str]
    builds: bool


class InstancePlan(_Part):
    """One service. `config` is the YAML of `vllm serve --config`, `files` what it names besides.

    The engine listens on `socket` or, where its version has none, on `address` (127.0.0.1:PORT).
    `drop_in` holds the lines in which its unit differs from the template, from [Service] on.
    `secret_names` of the environment and `secret_options` of the configuration have secret values.
    `routes` are the exact paths that the door lets through to it, with the key.
    `proof` is what shows that its configuration can be loaded, `trial` what is run beside the
    serving one when the release changes, where memory allows that.
    """

    name: str
    unit: str
    model: str
    kind: Kind
    model_path: str
    port: int
    url: str
    routes: list[str]
    served_names: list[str]
    socket: str | None
    address: str | None
    drop_in: list[str]
    config: dict[str, Any]
    files: list[PlacedFile]
    environment: dict[str, str]
    secret_names: list[str]
    secret_options: list[str]
    ready_timeout: int
    proof: Rehearsal | None = None
    trial: Rehearsal | None = None


class Key(_Part):
    """Where the API key comes from; the fingerprint tells a new one from an old one."""

    source: str
    fingerprint: str | None


class GatewayPlan(_Part):
    """The door. `access_log` is the form of its log: plain, json or off."""

    listen: list[str]
    access_log: str
    key: Key


class ManagedFile(_Part):
    """A file that we write.

    A secret one leaves no checksum in the receipt but a seal that only its host can make.
    """

    path: str
    secret: bool


class Link(_Part):
    """A symbolic link that we keep."""

    path: str
    target: str


class Tree(_Part):
    """A directory, or a file, that is ours with everything in it.

    Attributes:
        path: Where it is.
        kind: What a removal does with it. `own`: it goes. `log`: it goes with its rotated ones.
            `releases`: the releases in it go. `conda`: it goes, unless others have made
            environments in it. `models` and `store`: they stay unless asked for; with `models` the
            snapshots go, and nothing else.
    """

    path: str
    kind: Literal["conda", "log", "models", "own", "releases", "store"] = "own"


class Member(_Part):
    """A user that we put into a group of ours."""

    user: str
    group: str


class Lines(_Part):
    """Lines of ours in files of others.

    Attributes:
        kind: `conda`: what `conda init` writes into the start files of a user's shells. `pip`:
            options in pip's file for all users.
        subject: The user, or the file.
    """

    kind: Literal["conda", "pip"]
    subject: str


class Service(_Part):
    """A unit of ours, how it is asked whether it is well, and what it has read at its start.

    Attributes:
        unit: Its name.
        socket: The Unix socket that it listens on; None where it has an address.
        address: HOST:PORT.
        path: What is asked there; status 200 is well.
        ready_timeout: Seconds that a start may take.
        inputs: Files that it reads when it starts.
        trees: Environments and snapshots that it runs from.
    """

    unit: str
    socket: str | None = None
    address: str | None = None
    path: str = "/health"
    ready_timeout: int
    inputs: list[str]
    trees: list[str] = Field(default_factory=list)


class Managed(_Part):
    """Everything that a host has from us: what the receipt records and drift is looked for in.

    Attributes:
        files: Files that we write.
        links: Links that we keep.
        marks: Files by which an installation is known to have ended; they come and go with it.
        units: Units that must be enabled and active.
        directories: Directories that we make; others may have something in them.
        trees: What is ours as a whole.
        users: Users that we make.
        groups: Groups that we make.
        memberships: Users that we put into groups.
        os_packages: Packages of the operating system that must be there; they stay on removal.
        absent: Patterns of paths that are ours to write; what matches and is not listed goes.
        switched_off: Links of others that we have taken away.
        lines: Lines in files of others.
        services: Units that are asked whether they are well.
        environments: Python environments whose packages are compared.
    """

    files: list[ManagedFile] = Field(default_factory=list)
    links: list[Link] = Field(default_factory=list)
    marks: list[str] = Field(default_factory=list)
    units: list[str] = Field(default_factory=list)
    directories: list[str] = Field(default_factory=list)
    trees: list[Tree] = Field(default_factory=list)
    users: list[str] = Field(default_factory=list)
    groups: list[str] = Field(default_factory=list)
    memberships: list[Member] = Field(default_factory=list)
    os_packages: list[str] = Field(default_factory=list)
    absent: list[str] = Field(default_factory=list)
    switched_off: list[Link] = Field(default_factory=list)
    lines: list[Lines] = Field(default_factory=list)
    services: list[Service] = Field(default_factory=list)
    environments: list[str] = Field(default_factory=list)


class Installer(_Part):
    """An installer that the site needs: its sources outside, in order."""

    filename: str
    sha256: str
    urls: list[str]


class Upstream(_Part):
    """A package index or conda channel outside and the name by which a mirror host serves it."""

    name: str
    url: str


class Needs(_Part):
    """What a host needs from outside the site: what a mirror host fetches and a bundle carries."""

    installer: Installer
    indexes: list[Upstream]
    channels: list[Upstream]
    models: list[ModelSnapshot]
    # Debian's or Ubuntu's, that apt asks by plain HTTP and that a mirror host can pass on.
    archives: list[str] = Field(default_factory=list)


def canonical(value: Any) -> str:
    """The SHA-256 (hex) of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class EnvironmentPlan(_Part):
    """What is decided for every host that gets an environment of ours, whatever runs in it.

    `repository` is the Debian repository at the mirror host that apt asks instead of its own, if
    the mirror host holds one for the host's distribution. `apt_proxy` is the mirror host's address
    where apt asks for the archives in `needs` through it.
    """

    # What a digest leaves out: what does not change a host, and where bits come from, as their
    # checksums and pins are in. A reordered mirror list is no reason to touch a host (the channels
    # in `.condarc` stay in: they are a file there), nor is one more file of the same version.
    changes_nothing: ClassVar[Mapping[str, Any]] = {
        "host": True, "digest": True, "notices": True, "receipt": True,
        "needs": True, "repository": True, "apt_proxy": True, "miniconda": {"urls"},
        "managed": {"services"},
        "packages": {"hashes", "http_timeout", "indexes", "default_index", "find_links"},
    }  # fmt: skip

    host: str
    digest: str = ""
    miniconda: Miniconda
    environment: Environment
    packages: Packages
    apt: list[str]
    repository: str
    apt_proxy: str
    needs: Needs
    managed: Managed
    receipt: dict[str, Any] = Field(default_factory=dict)
    notices: list[str] = Field(default_factory=list)

    def digest_with(self, *also: Any) -> str:
        """The checksum of all that changes a host.

        Args:
            also: What else changes it: the roles' own code and variables.
        """
        content = self.model_dump(mode="json", exclude=dict(self.changes_nothing))
        return canonical([content, *also])


class HostPlan(EnvironmentPlan):
    """Every decision for one server."""

    changes_nothing: ClassVar[Mapping[str, Any]] = {
        **EnvironmentPlan.changes_nothing,
        "reasons": True, "wheel": {"glibc"},
        "models": {"__all__": {"sources", "size_bytes", "parallel", "limit_mib_s"}},
        "instances": {"__all__": {"ready_timeout", "url", "proof", "trial"}},
    }  # fmt: skip

    plan_format: int = PLAN_FORMAT
    device: Device
    release: Release
    wheel: WheelOrder | None
    models: list[ModelSnapshot]
    instances: list[InstancePlan]
    gateway: GatewayPlan
    # How many releases stay on the disk, the one in use included.
    keep_releases: int = 2
    reasons: list[Reason] = Field(default_factory=list)
