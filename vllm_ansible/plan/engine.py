"""Decisions about the engine: device, packages and their sources, release, Miniconda."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_ansible.plan import kernels
from vllm_ansible.plan.result import Environment, Miniconda, Packages, Release, canonical

if TYPE_CHECKING:
    from vllm_ansible.data import Device, Lock, TorchSource
    from vllm_ansible.plan.context import Context
    from vllm_ansible.plan.result import WheelOrder

MINICONDA = "/opt/miniconda3"
RELEASES = "/opt/vllm/releases"
# Only AMD's processors have the first, and of those Zen 4 and newer the second.
# Seconds without a byte. The mirror host fetches a file for one server; the others hear nothing
# until it is whole, and on a slow line torch takes half an hour.
HTTP_TIMEOUT, MIRROR_TIMEOUT = 60, 3600


def http_timeout(context: Context) -> int:
    """Seconds without a byte after which a package's download is given up."""
    return HTTP_TIMEOUT if context.site.mirror is None else MIRROR_TIMEOUT


def _torch_source(context: Context, device: Device) -> TorchSource:
    """Where torch comes from: as in the installed release, else by what answers now.

    An index that answers today and not tomorrow must not make a new release every day.
    """
    if device == "gpu":
        return "default-index"
    installed = context.facts.installed_release()
    same = {"version": context.version, "device": device, "python": context.python}
    source = installed.get("torch_source")
    if source in {"cpu-index", "default-index"} and same.items() <= installed.items():
        context.because("torch", source, "the installed release has it from there")
        return "cpu-index" if source == "cpu-index" else "default-index"
    places = context.upstream.packages
    # A flat listing is not passed through by a mirror host.
    flat = places.torch_find_links if context.site.mirror is None else []
    listed = [*places.torch_indexes, *flat]
    answering = [url for url in listed if _answers(context, url)]
    if answering:
        held = "torch" in context.site.indexes
        why = "the mirror host holds it" if held else f"{answering[0]} answers"
        context.because("torch", "cpu-index", why)
        return "cpu-index"
    asked = ", ".join(listed) or "none is listed"
    context.because("torch", "default-index", f"no PyTorch CPU index is known to answer ({asked})")
    context.notices.append(
        f"torch comes from the default index (built for CUDA, about 5 GB with what it needs; "
        f"the CPU engine runs on it): no PyTorch CPU index is known to answer ({asked})"
    )
    return "default-index"


def _answers(context: Context, url: str) -> bool:
    """Whether a place outside answers whoever fetches from it: the mirror host, else the host."""
    if context.site.mirror is None:
        return bool(context.facts.reachable.get(url))
    return "torch" in context.site.indexes or bool(context.site.answers.get(url))


def _torch_places(context: Context) -> tuple[list[str], list[str]]:
    """The indexes and the flat listings with torch's build for CPU.

    One that is dead ends the whole installation, so only those that answer are asked; where none
    does (a release is repaired in an outage) all are, and the error names them.
    """
    outside, seen = context.upstream.packages, context.sources.packages
    pairs = zip(outside.torch_indexes, seen.torch_indexes, strict=True)
    indexes = [here for there, here in pairs if _answers(context, there)]
    links = [url for url in seen.torch_find_links if _answers(context, url)]
    if indexes or links:
        return indexes, links
    return seen.torch_indexes, seen.torch_find_links


def choose_packages(
    context: Context, device: Device, *, compiled: bool
) -> tuple[Packages, TorchSource, str]:
    """Every requirement with its version, the indexes, and where torch comes from.

    Args:
        context: The words, facts and data.
        device: CPU or GPU.
        compiled: The engine's own wheel is made at the site, so no index is asked for it.
    """
    sources = context.sources.packages
    torch_source = _torch_source(context, device)
    lock = context.data.locks.get((context.version, device, context.python, torch_source))
    torch = context.known.torch
    if lock is None:
        local = "+cpu" if device == "cpu" else ""
        lock_of = f"vLLM {context.version}, {device}, Python {context.python}, {torch_source}"
        context.notices.append(f"no lock file for {lock_of}: scripts/lock-engine makes one")
        requirements = [f"vllm=={context.version}{local}", f"torch=={torch}"]
    else:
        requirements = _wanted(context, device, lock.pins)
        torch = next(r.split("==")[1] for r in lock.pins if r.startswith("torch=="))
    hashes = _hashes(lock, requirements) if lock is not None else {}
    if device == "cpu":
        more = _amd_kernels(context)
        requirements = sorted([*requirements, *more])
        hashes |= {name: context.data.versions.amd_kernels.hashes[name] for name in more.values()}
    _flaws(context)
    indexes = sources.engine_indexes if device == "cpu" and not compiled else []
    of_torch = _torch_places(context) if torch_source == "cpu-index" else ([], [])
    packages = Packages(
        requirements=requirements,
        hashes=hashes,
        locked=lock is not None,
        indexes=[*indexes, *of_torch[0]],
        default_index=sources.default_index,
        find_links=of_torch[1],
        http_timeout=http_timeout(context),
        uv=context.data.versions.uv,
    )
    return packages, torch_source, torch


def _amd_kernels(context: Context) -> dict[str, str]:
    """Kernels that vLLM takes on AMD's processors when they are there: names by requirement."""
    pins = kernels.of_amd(context)
    if pins:
        context.because(
            "kernels", pins[-1],
            "AMD with AVX512: a step's products in bfloat16 take 0.55 to 0.85 of oneDNN's time",
        )  # fmt: skip
    return {pin: pin.split("==")[0] for pin in pins}


def _wanted(context: Context, device: Device, pins: list[str]) -> list[str]:
    """The pins that the host's models need.

    On the CPU torchvision is what images are read with, and nothing else asks for it.
    """
    known = context.models
    if device == "gpu" or any(known[i.model].kind == "vision" for i in context.words.instances):
        return pins
    return [pin for pin in pins if not pin.startswith("torchvision==")]


def _hashes(lock: Lock, requirements: list[str]) -> dict[str, list[str]]:
    """The checksums of what is installed."""
    names = {requirement.split("==")[0] for requirement in requirements}
    return {name: sums for name, sums in lock.hashes.items() if name in names}


def _flaws(context: Context) -> None:
    """Says which known flaws the version carries."""
    flaws = context.data.versions.flaws(context.version)
    if flaws:
        names = ", ".join(f"{name} (fixed in {f.fixed_in})" for f in flaws for name in f.ids)
        context.notices.append(f"vLLM {context.version} carries known flaws: {names}")


def name_release(
    context: Context, device: Device, packages: Packages, torch_source: TorchSource, torch: str,
    wheel: WheelOrder | None,
) -> Release:  # fmt: skip
    """The release's id, from all that is in it."""
    conda = [f"python={context.python}", "pip"]
    parts = [context.python, packages.requirements, conda, device, context.facts.architecture]
    # A compiled wheel and a fetched one of the same version are not the same engine.
    parts += [wheel.key] if wheel else []
    identity = f"{context.version}-{device}-{canonical(parts)[:12]}"
    vllm = next(r.split("==")[1] for r in packages.requirements if r.startswith("vllm=="))
    return Release(
        id=identity,
        path=f"{RELEASES}/{identity}",
        version=context.version,
        device=device,
        python=context.python,
        vllm=vllm,
        torch=torch,
        torch_source=torch_source,
    )


def environment(release: Release) -> Environment:
    """The conda environment of a release."""
    return Environment(prefix=release.path, packages=[f"python={release.python}", "pip"])


def choose_miniconda(context: Context) -> Miniconda:
    """The installer for the host's architecture, its sources in order, and `.condarc`."""
    said, versions = context.words.sources.miniconda, context.data.versions
    version = said.version or versions.default_miniconda
    architecture = context.facts.architecture
    filename = said.filename or f"Miniconda3-{version}-Linux-{architecture}.sh"
    sha256 = said.sha256 or versions.miniconda.get(version, {}).get(architecture, "")
    return Miniconda(
        prefix=MINICONDA,
        version=version,
        filename=filename,
        sha256=sha256,
        urls=[f"{url.rstrip('/')}/{filename}" for url in context.sources.miniconda],
        condarc=_condarc(context),
        pip_conf=context.sources.pip,
        users=sorted(set(context.words.conda_users)),
    )


def _condarc(context: Context) -> dict[str, Any]:
    conda = context.sources.conda
    patience = {"remote_read_timeout_secs": MIRROR_TIMEOUT} if context.site.mirror else {}
    return patience | {
        "channels": ["defaults"],
        "default_channels": list(conda.default_channels),
        "custom_channels": dict(conda.custom_channels),
        "show_channel_urls": True,
        # An update of conda itself is a decision of the plan and not of the day.
        "auto_update_conda": False,
    }
