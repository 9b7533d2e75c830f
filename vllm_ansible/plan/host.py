"""Whether the host can take what was decided: processor, libraries, memory, disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from vllm_ansible.plan.serving import size_of

if TYPE_CHECKING:
    from vllm_ansible.plan.context import Context
    from vllm_ansible.plan.result import InstancePlan, ModelSnapshot, Release

# MiB that a release takes: measured 6440 with PyPI's torch, of which 300 are bytecode and 180 AMD's
# kernels, and 8153 for GPU without bytecode; with room.
RELEASE_MIB = {
    ("cpu", "cpu-index"): 3500,
    ("cpu", "default-index"): 7000,
    ("gpu", "default-index"): 10500,
}
MINICONDA_MIB = 1000
# Kinds of sources that may have a model on the disk twice for a while.
TWICE = {"archive", "git-lfs"}
# Below it what vLLM needs has no wheels: llguidance has manylinux_2_31 since 1.0.
GLIBC = "2.31"
GLIBC_OLD = "2.28"
LLGUIDANCE_1_SINCE = "0.17.0"
# Debian 11's; the unit's directives are all known from there on.
SYSTEMD = 247


def check_host(
    context: Context, release: Release, models: list[ModelSnapshot], instances: list[InstancePlan]
) -> None:
    """Notes every shortage of the host, with its figures."""
    _processor(context, release)
    _system(context)
    _users(context)
    _disk(context, release, models)
    _ports(context, instances)


def check_miniconda(context: Context) -> None:
    """Notes an installer whose checksum nobody has said."""
    said, versions = context.words.sources.miniconda, context.data.versions
    version, architecture = said.version or versions.default_miniconda, context.facts.architecture
    if said.sha256 is None and architecture not in versions.miniconda.get(version, {}):
        context.problems.append(f"no checksum is known of Miniconda {version} on {architecture}")


def _processor(context: Context, release: Release) -> None:
    facts = context.facts
    if facts.architecture not in {"x86_64", "aarch64"}:
        context.problems.append(f"the host is {facts.architecture}: x86_64 or aarch64 is needed")
        return
    if facts.architecture == "aarch64" and not _has_lock_for_arm():
        context.problems.append(
            "the host is aarch64, and the lock files are for x86_64 only so far"
        )
    check_miniconda(context)
    if release.device == "cpu" and facts.architecture == "x86_64" and "avx2" not in facts.cpu_flags:
        context.problems.append("the processor has no AVX2, which vLLM's CPU wheel needs")
    elif release.device == "cpu" and "avx512f" not in facts.cpu_flags:
        context.notices.append(
            "the processor has no AVX512: the AVX2 kernels run; AWQ and GPTQ models do not"
        )


def _has_lock_for_arm() -> bool:
    """Lock files do not name an architecture yet: all were made on x86_64."""
    return False


def _system(context: Context) -> None:
    facts = context.facts
    new = Version(context.version) >= Version(LLGUIDANCE_1_SINCE)
    floor = GLIBC if new else GLIBC_OLD
    if facts.glibc and Version(facts.glibc) < Version(floor):
        context.problems.append(
            f"the host has glibc {facts.glibc}, the packages of vLLM {context.version} need "
            f"{floor}: Debian 11, Ubuntu 20.04 or newer"
        )
    if facts.systemd is not None and facts.systemd < SYSTEMD:
        context.problems.append(f"the host has systemd {facts.systemd}, the unit needs {SYSTEMD}")


def _users(context: Context) -> None:
    """Accounts are the operator's to make; a missing one is told before anything is changed."""
    missing = sorted(set(context.facts.missing_users) & set(context.words.conda_users))
    if missing:
        context.problems.append(
            f"vllm_conda_users names {', '.join(missing)}, who has no account on the host: create "
            f"the account, or take the name out"
        )


def _disk(context: Context, release: Release, models: list[ModelSnapshot]) -> None:
    """Disk for what is not there yet; some sources need it twice while a model is fetched."""
    free, receipt = context.facts.disk_free_mib, context.facts.receipt_content()
    if context.facts.installed_release().get("id") != release.id and "/opt" in free:
        needed = RELEASE_MIB[(release.device, release.torch_source)] + MINICONDA_MIB
        if free["/opt"] < needed:
            context.problems.append(
                f"disk is short: release {release.id} and Miniconda need {needed} MiB in /opt, "
                f"{free['/opt']} are free"
            )
    present = {(m.get("name"), m.get("revision")) for m in receipt.get("models", [])}
    missing = [m for m in models if (m.name, m.revision) not in present]
    needed = sum(_copies(m) * size_of(m) for m in missing)
    if "/srv" in free and free["/srv"] < needed:
        names = ", ".join(m.name for m in missing)
        context.problems.append(
            f"disk is short: {names} need {needed} MiB in /srv while they are fetched (git-lfs "
            f"may keep two copies, an archive is unpacked beside itself), {free['/srv']} are free"
        )


def _copies(model: ModelSnapshot) -> int:
    """How often a model may lie on the disk while it is fetched from the costliest source."""
    return 2 if any(source["kind"] in TWICE for source in model.sources) else 1


def _ports(context: Context, instances: list[InstancePlan]) -> None:
    inner = {one.config.get("port") for one in instances} - {None}
    for one in instances:
        if one.port in inner:
            context.problems.append(f"port {one.port} of {one.name} is taken by an engine's own")
