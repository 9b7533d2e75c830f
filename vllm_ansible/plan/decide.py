"""The one function that decides everything for a host. Pure: no file, no network, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vllm_ansible.plan import engine, gpu, host, install, kernels, serving, trial
from vllm_ansible.plan.context import Context
from vllm_ansible.plan.managed import of_server
from vllm_ansible.plan.result import (
    GatewayPlan,
    HostPlan,
    Installer,
    Key,
    Needs,
    PlanError,
    Upstream,
    canonical,
)
from vllm_ansible.plan.site import Site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_ansible.data import Data, Device
    from vllm_ansible.plan.facts import HostFacts
    from vllm_ansible.plan.result import Miniconda, ModelSnapshot
    from vllm_ansible.schema import Words

# What the receipt keeps of an instance: enough to ask it without the inventory.
RECORDED = {
    "name", "unit", "model", "kind", "port", "url", "served_names", "socket", "address",
    "ready_timeout",
}  # fmt: skip
# libnuma: the CPU kernels do not load without it, and the wheel does not carry it.
APT = ["ca-certificates", "git", "git-lfs", "libnuma1", "nginx"]
# torch.compile builds C++ at run time; eager mode needs no compiler.
COMPILER = ["g++"]
# Its own access log is the door's to rotate.
ROTATION = ["logrotate"]


def plan_host(
    words: Words,
    facts: HostFacts,
    data: Data,
    key_fingerprint: str | None = None,
    *,
    name: str = "",
    secret_fingerprints: Mapping[str, str] | None = None,
    site: Site | None = None,
) -> HostPlan:
    """Decides everything for one host.

    Args:
        words: What the inventory says, checked.
        facts: What the host is.
        data: The project's data.
        key_fingerprint: A fingerprint of the API key that the controller gives, if it gives one.
        name: The host's name in the inventory.
        secret_fingerprints: Fingerprints of secret values of instances' environments, and of the
            tokens of models' sources, by path.
        site: What is known of the site around it; without one the host stands alone.

    Returns:
        The plan, with the reasons of its decisions.

    Raises:
        PlanError: The host cannot take it; lists every shortage with its figures.
    """
    secrets = dict(secret_fingerprints or {})
    context = Context(words=words, facts=facts, data=data, site=site or Site(), secrets=secrets)
    device = gpu.choose_device(context)
    method = install.choose_method(context, device)
    wheel = install.order_wheel(context, method)
    compiled = wheel is not None
    packages, torch_source, torch = engine.choose_packages(context, device, compiled=compiled)
    release = engine.name_release(context, device, packages, torch_source, torch, wheel)
    models = serving.choose_models(context)
    instances = serving.choose_instances(context, device, models)
    instances = trial.rehearse(context, release, models, instances)
    miniconda = engine.choose_miniconda(context)
    fetched = behind_mirror(context, models)
    host.check_host(context, release, fetched, instances)
    if context.problems:
        raise PlanError(name, context.problems)
    apt = _apt(context, device)
    plan = HostPlan(
        host=name,
        device=device,
        release=release,
        miniconda=miniconda,
        environment=engine.environment(release),
        packages=packages,
        wheel=wheel,
        models=fetched,
        instances=instances,
        gateway=_gateway(context, key_fingerprint),
        keep_releases=words.releases.keep,
        apt=apt,
        repository=repository_of(context),
        apt_proxy=apt_proxy_of(context),
        needs=needs_of(context, miniconda, models),
        managed=of_server(release.path, miniconda, instances, words, apt),
        notices=context.notices,
        reasons=context.reasons,
    )
    # A token only opens a source: another one is no reason to touch a host.
    lasting = {path: one for path, one in secrets.items() if not path.startswith("vllm_models.")}
    also = [data.code_digest, words.role_variables, lasting]
    digest = _without_secrets(plan).digest_with(*also)
    return plan.model_copy(update={"digest": digest, "receipt": _receipt(plan)})


def _apt(context: Context, device: Device) -> list[str]:
    """Packages of the operating system."""
    words = context.words
    compiles = any(kernels.compiled(context, device, one) for one in words.instances)
    compiler = COMPILER if compiles else []
    rotation = ROTATION if words.logs.gateway_access == "json" else []
    return sorted([*APT, *compiler, *rotation])


def _without_secrets(plan: HostPlan) -> HostPlan:
    """The plan with secret values out: a fingerprint of each goes into the digest instead."""
    instances = [
        one.model_copy(
            update={
                "environment": {
                    key: "" if key in one.secret_names else value
                    for key, value in one.environment.items()
                }
            }
        )
        for one in plan.instances
    ]
    return plan.model_copy(update={"instances": instances})


def _gateway(context: Context, fingerprint: str | None) -> GatewayPlan:
    gateway = context.words.gateway
    if gateway.api_key is not None:
        source = "inventory"
    elif gateway.api_key_file is not None:
        source = "controller-file"
    else:
        source = "generated"
        context.because("gateway.key", source, "the inventory gives none: it is made on the host")
    return GatewayPlan(
        listen=gateway.listen,
        access_log=context.words.logs.gateway_access,
        key=Key(source=source, fingerprint=fingerprint),
    )


def needs_of(context: Context, miniconda: Miniconda, models: list[ModelSnapshot]) -> Needs:
    """What must come from outside the site, whoever fetches it."""
    upstream = context.upstream
    return Needs(
        installer=Installer(
            filename=miniconda.filename,
            sha256=miniconda.sha256,
            urls=[f"{url.rstrip('/')}/{miniconda.filename}" for url in upstream.miniconda],
        ),
        indexes=[Upstream(**one._asdict()) for one in upstream.indexes()],
        channels=[Upstream(**one._asdict()) for one in upstream.channels()],
        models=models,
        archives=_archives(context),
    )


def behind_mirror(context: Context, models: list[ModelSnapshot]) -> list[ModelSnapshot]:
    """The models with the site's mirror host as their source, if there is one."""
    mirror = context.site.mirror
    if mirror is None:
        return models
    base = f"http://{mirror}/models"
    sources = {m.name: {"kind": "files", "url": f"{base}/{m.name}/{m.revision}/"} for m in models}
    return [model.model_copy(update={"sources": [sources[model.name]]}) for model in models]


def repository_of(context: Context) -> str:
    """The Debian repository that the mirror host has of a bundle for the host's distribution."""
    facts = context.facts
    major = facts.distribution_version.split(".")[0]
    name = f"{facts.distribution.lower()}-{major}-{facts.architecture}"
    if name not in context.site.repositories:
        return ""
    return f"http://{context.site.mirror}/apt/{name}/"


def _archives(context: Context) -> list[str]:
    """The archives of Debian packages that the host's apt shall ask through a mirror host."""
    if repository_of(context):
        return []
    mirror = urlsplit(f"//{context.site.mirror}").hostname if context.site.mirror else None
    # What is on the mirror host already is asked there.
    return [url for url in context.facts.apt_archives if urlsplit(url).hostname != mirror]


def apt_proxy_of(context: Context) -> str:
    """Where apt asks for these archives: at the mirror host, if there is one."""
    archives = _archives(context)
    if context.site.mirror is None or not archives:
        return ""
    proxy = f"http://{context.site.mirror}"
    context.because("apt_proxy", proxy, f"the mirror host passes on {', '.join(archives)}")
    return proxy


def _receipt(plan: HostPlan) -> dict[str, Any]:
    """What the receipt keeps of the plan: no secret, and no more than later work asks it for."""
    models = [
        model.model_dump(mode="json", include={"name", "revision", "path", "include"})
        for model in plan.models
    ]
    instances = [
        {
            **one.model_dump(mode="json", include=RECORDED),
            "config_digest": canonical(
                [one.config, [file.model_dump(mode="json") for file in one.files]]
            ),
        }
        for one in plan.instances
    ]
    return {
        "plan_format": plan.plan_format,
        "release": plan.release.model_dump(mode="json"),
        "models": models,
        "instances": instances,
    }
