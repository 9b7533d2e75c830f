"""The plan of a host's web UI: its environment, its settings, its door. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from vllm_ansible.plan.context import Context
from vllm_ansible.plan.decide import apt_proxy_of, needs_of, repository_of
from vllm_ansible.plan.engine import choose_miniconda, http_timeout
from vllm_ansible.plan.host import check_miniconda
from vllm_ansible.plan.managed import DEFAULT_SITE, STATE, UNITS, plain, with_miniconda
from vllm_ansible.plan.result import (
    Environment,
    EnvironmentPlan,
    Managed,
    ManagedFile,
    Packages,
    PlanError,
    Service,
    Tree,
    canonical,
)
from vllm_ansible.plan.site import Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_ansible.data import Data
    from vllm_ansible.plan.facts import HostFacts
    from vllm_ansible.plan.result import Miniconda
    from vllm_ansible.schema import Door, Webui, Words

RECEIPT = "/var/lib/vllm/webui.json"
RELEASES = "/opt/vllm/webui/releases"
CONFIG = "/etc/vllm-webui"
CODE = "/opt/vllm/webui/code"
SOCKET = "/run/vllm-webui/http.sock"
UNIT = "vllm-webui.service"
# The Python that the lock file was made for.
PYTHON = "3.10"
# The environment takes about 450 MiB with its Python and byte code, Miniconda up to 1000.
DISK_MIB = 1600
APT = ["ca-certificates", "nginx"]
# Seconds; the role's own.
READY_TIMEOUT = 120


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Endpoint(_Part):
    """One instance that the page offers; `credential` names its server's API key."""

    name: str
    url: str
    credential: str
    vision: bool


class Key(_Part):
    """An API key that the page needs: of which server, and by which name it is given it."""

    credential: str
    server: str
    fingerprint: str | None


class Release(_Part):
    """The page's Python environment; `id` changes with everything in it."""

    id: str
    path: str
    python: str


class Tunnel(_Part):
    """The program of public links: its sources in order, and its checksum."""

    urls: list[str]
    sha256: str
    filename: str


class WebuiPlan(EnvironmentPlan):
    """Every decision for one host's web UI.

    Attributes:
        release: The Python environment.
        code: The directory of the application's own code; another one for other code.
        allow: The only addresses that the service may talk to; empty where it has a public link.
        users: Who may log in.
        url: Where the page is asked whether it is there, from the host itself.
    """

    changes_nothing: ClassVar[Mapping[str, Any]] = {
        **EnvironmentPlan.changes_nothing,
        "url": True, "tunnel": {"urls"},
    }  # fmt: skip

    release: Release
    code: str
    endpoints: list[Endpoint]
    api_keys: list[Key]
    listen: list[str]
    port: int
    url: str
    settings: dict[str, Any]
    allow: list[str]
    users: list[str]
    memory_mib: int
    tunnel: Tunnel | None


def plan_webui(
    words: Words,
    facts: HostFacts,
    data: Data,
    doors: Sequence[Door],
    *,
    name: str = "",
    fingerprints: Mapping[str, str | None] | None = None,
    logins: Mapping[str, str] | None = None,
    site: Site | None = None,
) -> WebuiPlan:
    """Decides everything for one host's web UI.

    Args:
        words: What the inventory says of the host, checked.
        facts: What the host is.
        data: The project's data.
        doors: The instances that the page offers.
        name: The host's name.
        fingerprints: Of the servers' API keys, where the controller gives them.
        logins: Fingerprints of the passwords, by user.
        site: What is known of the site around it.

    Raises:
        PlanError: The host cannot take it.
    """
    context = Context(words=words, facts=facts, data=data, site=site or Site())
    webui = words.webui
    packages = _packages(context)
    identity = canonical([PYTHON, packages.requirements, facts.architecture])[:12]
    release = Release(id=identity, path=f"{RELEASES}/{identity}", python=PYTHON)
    code = f"{CODE}/{canonical(data.webui.code)[:12]}"
    miniconda = choose_miniconda(context)
    _check(context, release.path)
    if context.problems:
        raise PlanError(name, context.problems)
    endpoints = [
        Endpoint(name=one.name, url=one.url, credential=_credential(one.server), vision=one.vision)
        for one in doors
    ]
    plan = WebuiPlan(
        host=name,
        release=release,
        code=code,
        miniconda=miniconda,
        environment=Environment(prefix=release.path, packages=[f"python={PYTHON}", "pip"]),
        packages=packages,
        endpoints=endpoints,
        api_keys=_keys(doors, fingerprints or {}),
        listen=webui.listen,
        port=webui.port,
        url=f"http://{_own_address(webui.listen)}:{webui.port}",
        settings=_settings(webui, endpoints),
        allow=[] if webui.share else sorted({_host_of(one.url) for one in endpoints}),
        users=sorted(one.user for one in webui.logins),
        memory_mib=webui.memory_mib,
        tunnel=_tunnel(webui, facts.architecture),
        apt=APT,
        repository=repository_of(context),
        apt_proxy=apt_proxy_of(context),
        needs=needs_of(context, miniconda, []),
        managed=_managed(
            doors,
            [f"{code}/vllm_webui/{file}" for file in data.webui.code],
            release,
            miniconda,
            words,
        ),
        notices=_notices(webui),
    )
    also = [data.code_digest, words.role_variables, dict(logins or {})]
    return plan.model_copy(
        update={
            "digest": plan.digest_with(*also),
            "receipt": {"endpoints": [e.url for e in endpoints]},
        }
    )


def _tunnel(webui: Webui, architecture: str) -> Tunnel | None:
    """The program of public links, under the name by which the locked gradio looks for it."""
    if webui.share is None:
        return None
    name = {"x86_64": "amd64", "aarch64": "arm64"}.get(architecture, architecture)
    return Tunnel(
        urls=webui.share.urls, sha256=webui.share.sha256, filename=f"frpc_linux_{name}_v0.3"
    )


def _packages(context: Context) -> Packages:
    return Packages(
        requirements=context.data.webui.lock.pins,
        hashes=context.data.webui.lock.hashes,
        locked=True,
        indexes=[],
        default_index=context.sources.packages.default_index,
        find_links=[],
        http_timeout=http_timeout(context),
        uv=context.data.versions.uv,
    )


def _check(context: Context, release: str) -> None:
    """Notes what the host lacks."""
    facts = context.facts
    free = facts.disk_free_mib.get("/opt")
    managed = (facts.receipt or {}).get("content", {})
    if free is not None and not managed and free < DISK_MIB:
        context.problems.append(
            f"disk is short: the web UI's environment {release} and Miniconda need {DISK_MIB} MiB "
            f"in /opt, {free} are free"
        )
    check_miniconda(context)


def _credential(server: str) -> str:
    """The name of a server's API key among the service's credentials."""
    return f"key-{server}"


def _keys(doors: Sequence[Door], fingerprints: Mapping[str, str | None]) -> list[Key]:
    servers = sorted({one.server for one in doors})
    return [
        Key(credential=_credential(one), server=one, fingerprint=fingerprints.get(one))
        for one in servers
    ]


def _own_address(listen: Sequence[str]) -> str:
    """An address at which the host itself reaches its door, as a URL writes it."""
    addresses = [ip_address(one) for one in listen]
    first = next((one for one in addresses if one.is_loopback), addresses[0])
    if first.is_unspecified:
        first = ip_address("::1" if first.version == 6 else "127.0.0.1")  # noqa: PLR2004
    return f"[{first}]" if first.version == 6 else str(first)  # noqa: PLR2004


def _host_of(url: str) -> str:
    return urlsplit(url).hostname or ""


def _settings(webui: Webui, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The application's file of settings."""
    return {
        "title": webui.title,
        "language": webui.language,
        "system_prompt": webui.system_prompt,
        "endpoints": [one.model_dump(mode="json") for one in endpoints],
        "socket": SOCKET,
        "answers": webui.answers,
        "login": bool(webui.logins),
        "share": f"{_own_address(webui.listen)}:{webui.port}" if webui.share else "",
    }


def _managed(
    doors: Sequence[Door], code: list[str], release: Release, miniconda: Miniconda, words: Words
) -> Managed:
    """What the role leaves on the host, for the receipt."""
    webui = words.webui
    secrets = [f"{CONFIG}/{_credential(one)}" for one in sorted({d.server for d in doors})]
    logins = f"{CONFIG}/logins"
    secrets += [logins] if webui.logins else []
    unit, settings = f"{UNITS}/{UNIT}", f"{CONFIG}/settings.json"
    files = ["/etc/nginx/conf.d/vllm-webui.conf", f"{UNITS}/nginx.service.d/vllm.conf"]
    managed = Managed(
        files=[
            *plain([*files, unit, settings, *code]),
            *(ManagedFile(path=path, secret=True) for path in secrets),
        ],
        units=[UNIT, "nginx.service"],
        directories=[CONFIG, STATE, RELEASES, f"{UNITS}/nginx.service.d"],
        trees=[
            Tree(path="/opt/vllm/webui"),
            Tree(path="/var/cache/vllm-webui"),
            Tree(path=f"{STATE}/webui.started-with"),
        ],
        users=["vllm-webui"],
        groups=["vllm-webui"],
        os_packages=APT,
        absent=[] if webui.logins else [logins],
        switched_off=[DEFAULT_SITE],
        services=[
            Service(
                unit=UNIT,
                socket=SOCKET,
                ready_timeout=READY_TIMEOUT,
                inputs=[unit, settings, *code, *secrets],
                trees=[release.path],
            )
        ],
        environments=[release.path],
    )
    return with_miniconda(managed, miniconda)


def _notices(webui: Webui) -> list[str]:
    """What whoever runs it should know."""
    far = [one for one in webui.listen if not ip_address(one).is_loopback]
    found = []
    if webui.open and (far or webui.share):
        found.append("the web UI is open: whoever reaches it may use the models without a login")
    if webui.share:
        found.append(
            "the web UI has a public link: its traffic passes through gradio's servers, and the "
            "service may talk to any address"
        )
    return found
