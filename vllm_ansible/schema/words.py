"""The inventory's words as pydantic models. What they look up in data is checked in `check`."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

from vllm_ansible.data import CondaMirror, FileSum, Model, Sha256, Source, Url

__all__ = ["FileSum", "Model", "Source"]

# A systemd instance name could hold more; this much also fits a file name, a socket path and a URL.
NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
NAME_HELP = (
    "a small letter or digit, then up to 62 more of a-z 0-9 . _ -, and not .trial at the end"
)
# What an instance is called while its next release or configuration is tried.
TRIAL = ".trial"
SECRET_NAME = re.compile(
    r"TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|(^|_)KEY($|S$|_)|API_?KEY", re.IGNORECASE
)
HOST_PATH = r"^/[A-Za-z0-9._-][A-Za-z0-9._/-]*$"
# Options of vLLM count tokens and name tokenizers: of theirs, only what ends so is a secret.
SECRET_OPTION = re.compile(r"(token|password|passwd|secret|credentials?|key)$", re.IGNORECASE)
USER = r"[a-z_][a-z0-9_-]{0,31}"
KEY_PATTERN = re.compile(r"[A-Za-z0-9._~+/=-]{16,256}")


def wrong(allowed: str) -> PydanticCustomError:
    """The error that says what is allowed."""
    return PydanticCustomError("word", "{allowed}", {"allowed": allowed})


def _python(value: Any) -> Any:
    # 3.11 without quotes is a float and can be trusted; 3.10 without quotes arrives as 3.1.
    if value == 3.1 or value == "3.1":  # noqa: PLR1714, PLR2004  # readable, and the value is the point
        raise wrong('a Python in quotes: YAML reads 3.10 without quotes as 3.1, write "3.10"')
    return str(value) if isinstance(value, float) else value


def _address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise wrong("an IPv4 or IPv6 address of the host, such as 127.0.0.1 or ::1") from None


def _key_file(value: str) -> str:
    if not value.startswith(("/", "~/")):
        raise wrong("an absolute path on the controller, such as ~/.config/vllm/api_key")
    return value


def _controller_file(value: str) -> str:
    if not value.startswith(("/", "~/")):
        raise wrong("an absolute path on the controller, such as ~/sources/oneDNN-3.13.tar.gz")
    return value


def _template_file(value: str) -> str:
    if not value.startswith(("/", "~/")):
        raise wrong("an absolute path on the controller, such as ~/templates/chatml.jinja")
    return value


def _log_form(value: Any) -> Any:
    # YAML reads off without quotes as false.
    return "off" if value is False else value


def _password_file(value: str) -> str:
    if not value.startswith(("/", "~/")):
        raise wrong("an absolute path on the controller, such as ~/.config/vllm/webui_password")
    return value


def _one_line(value: str) -> str:
    if not value.strip() or len(value) > 80 or re.search(r"[\x00-\x1f]", value):  # noqa: PLR2004
        raise wrong("one line of 1 to 80 characters")
    return value


def _share(value: Any) -> Any:
    if value is True:
        raise wrong(
            "urls and sha256 of the program that makes the link, {urls: [...], sha256: ...}: "
            "docs/webui.md says which file it is"
        )
    return None if value is False else value


def _name(value: str) -> str:
    if not re.fullmatch(NAME, value) or value.endswith(TRIAL):
        raise wrong(NAME_HELP)
    return value


Name = Annotated[str, AfterValidator(_name)]
Python = Annotated[str, BeforeValidator(_python), StringConstraints(pattern=r"^3\.\d{1,2}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
ServedName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$")]
Route = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._/-]+$")]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def _env_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise wrong('text: write "1", "0", "true" or "false" in quotes, as the program reads it')
    value = str(value) if isinstance(value, (int, float)) else value
    if isinstance(value, str) and re.search(r"[\x00-\x1f]", value):
        raise wrong("text on one line")
    return value


class Word(BaseModel):
    """Base of all words: nothing unknown, numbers in quotes are numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Engine(Word):
    """Which vLLM, on what."""

    version: str | None = None
    device: Literal["auto", "cpu", "gpu"] = "auto"
    python: Python | None = None
    install: Literal["auto", "wheel", "source"] = "auto"
    # Of a build from source: where its tree comes from, its compiler, and how many at once.
    source: Literal["sdist", "git"] = "sdist"
    compiler: Literal["auto", "system", "conda"] = "auto"
    jobs: Annotated[int, Field(ge=1, le=1024)] | None = None
    accept_vulnerable: bool = False


class Instance(Word):
    """One served model. Memory in GiB, times in seconds."""

    name: Name
    model: str
    port: Port = 8000
    served_names: list[ServedName] = Field(default_factory=list)
    max_model_len: Annotated[int, Field(ge=16, le=10_000_000)] | None = None
    chat_template: Annotated[str, AfterValidator(_template_file)] | None = None
    images: Annotated[int, Field(ge=1, le=1000)] | None = None
    media_path: Annotated[str, StringConstraints(pattern=HOST_PATH)] | None = None
    pooling: Literal["CLS", "LAST", "MEAN"] | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32", "half", "float"] = "auto"
    kv_cache_gib: Annotated[int, Field(ge=1, le=4096)] | None = None
    cores: Annotated[int, Field(ge=1, le=4096)] | None = None
    compile: bool | None = None
    ready_timeout: Annotated[int, Field(ge=10, le=86400)] = 600
    extra_args: dict[str, Any] = Field(default_factory=dict)
    env: dict[EnvName, Annotated[str, BeforeValidator(_env_value)]] = Field(default_factory=dict)


class Tuned(Word):
    """What `scripts/tune` found for one instance of a host: words of `Instance`, before its own."""

    dtype: Literal["auto", "bfloat16", "float16", "float32", "half", "float"] | None = None
    cores: Annotated[int, Field(ge=1, le=4096)] | None = None
    compile: bool | None = None
    extra_args: dict[str, Any] = Field(default_factory=dict)


class MinicondaSource(Word):
    """The installer and where it is fetched from."""

    version: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")] | None = None
    filename: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+\.sh$")] | None = None
    sha256: Sha256 | None = None
    mirrors: list[Url] = Field(default_factory=list)


class CondaSource(CondaMirror):
    """Channels, as in `.condarc`."""


class PackageSource(Word):
    """Package indexes. What is not said here comes from the profile."""

    default_index: Url | None = None
    engine_indexes: list[Url] | None = None
    torch_indexes: list[Url] | None = None
    torch_find_links: list[Url] | None = None


class Archive(Word):
    """A source archive: a file on the controller, or addresses and a checksum."""

    archive: Annotated[str, AfterValidator(_controller_file)] | None = None
    urls: list[Url] = Field(default_factory=list)
    sha256: Sha256 | None = None


class Sources(Word):
    """Where bits come from: a profile of mirrors.yml and what differs from it.

    `site_local` says that these sources are the site's own, so that any number of hosts may use
    them without a mirror host.
    """

    profile: str | None = None
    site_local: bool = False
    git: list[Url] | None = None
    onednn: Archive = Archive()
    pip: dict[str, dict[str, str]] | None = None
    miniconda: MinicondaSource = MinicondaSource()
    conda: CondaSource | None = None
    packages: PackageSource = PackageSource()


class Gateway(Word):
    """The door."""

    listen: list[Annotated[str, AfterValidator(_address)]] = Field(
        default_factory=lambda: ["127.0.0.1"], min_length=1
    )
    api_key: SecretStr | None = None
    api_key_file: Annotated[str, AfterValidator(_key_file)] | None = None
    routes: list[Route] | None = Field(default=None, min_length=1)


class Logs(Word):
    """What is written down of what is asked; by default nothing but who came to the door.

    Attributes:
        statistics: Whether the engine prints its throughput every few seconds.
        requests: Whether it prints each request's parameters.
        prompt_characters: How much of each prompt it prints besides.
        gateway_access: The door's log: nginx's own form, JSON, or none.
    """

    statistics: bool = False
    requests: bool = False
    prompt_characters: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    gateway_access: Annotated[Literal["plain", "json", "off"], BeforeValidator(_log_form)] = "plain"


class Login(Word):
    """Somebody who may enter the web UI; the password is in a vault, or in a file here."""

    user: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    password: SecretStr | None = None
    password_file: Annotated[str, AfterValidator(_password_file)] | None = None


class Share(Word):
    """Where the program of gradio's public links is fetched from, and its checksum."""

    urls: list[Url] = Field(min_length=1)
    sha256: Sha256


class Webui(Word):
    """The chat in the browser: whose models, at which door, and who may enter."""

    servers: list[str] | None = Field(default=None, min_length=1)
    listen: list[Annotated[str, AfterValidator(_address)]] = Field(
        default_factory=lambda: ["127.0.0.1"], min_length=1
    )
    port: Port = 7860
    logins: list[Login] = Field(default_factory=list)
    open: bool = False
    title: Annotated[str, AfterValidator(_one_line)] = "vLLM"
    language: Literal["auto", "en", "zh"] = "auto"
    system_prompt: Annotated[str, Field(max_length=8000)] = ""
    answers: Annotated[int, Field(ge=1, le=1024)] = 16
    memory_mib: Annotated[int, Field(ge=384, le=65536)] = 1024
    share: Annotated[Share | None, BeforeValidator(_share)] = None


class Mirror(Word):
    """The site's mirror host: where others reach it, where it keeps things, and how much.

    Without an address it is the host's `ansible_host`.
    """

    address: Annotated[str, AfterValidator(_address)] | None = None
    port: Port = 8080
    root: Annotated[str, StringConstraints(pattern=HOST_PATH)] = "/srv/mirror"
    max_gib: Annotated[int, Field(ge=5, le=100_000)] = 100


class Downloads(Word):
    """How models are fetched: files at a time, and MiB per second for all of a model's together."""

    parallel: Annotated[int, Field(ge=1, le=64)] = 4
    limit_mib_s: Annotated[float, Field(gt=0, le=100_000)] | None = None


class Releases(Word):
    """What is kept to go back to, and whether a change is tried beside the one that serves."""

    keep: Annotated[int, Field(ge=2, le=20)] = 2
    trial: bool = True


class Words(Word):
    """All that one host's inventory says, checked."""

    engine: Engine = Engine()
    instances: list[Instance]
    models: dict[str, Model] = Field(default_factory=dict)
    downloads: Downloads = Downloads()
    releases: Releases = Releases()
    sources: Sources = Sources()
    gateway: Gateway = Gateway()
    logs: Logs = Logs()
    # What the controller's files that instances name as chat templates say, by instance.
    chat_templates: dict[str, str] = Field(default_factory=dict)
    # The users of the host for whom `conda activate vllm` shall work.
    conda_users: list[str] = Field(default_factory=list)
    # Whether a host that is as its plan and its receipt say is left alone.
    fast_path: bool = True
    webui: Webui = Webui()
    # Variables of the roles themselves (gateway_*, miniconda_* ...): they change a host too.
    role_variables: dict[str, Any] = Field(default_factory=dict)
