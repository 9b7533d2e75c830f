"""What is run before anything that serves is touched: an instance under another name. Pure.

Where memory allows a second engine beside those that run, what is next is started and asked one
question; elsewhere its configuration is proved loadable by its version's own code.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from vllm_ansible.plan import length, serving, unit
from vllm_ansible.plan.result import PlacedFile, Rehearsal
from vllm_ansible.plan.share import (
    KV_CACHE,
    MIB_PER_GIB,
    SYSTEM_RESERVE_MIB,
    domains,
    engine_mib,
)
from vllm_ansible.schema.words import TRIAL

if TYPE_CHECKING:
    from vllm_ansible.plan.context import Context
    from vllm_ansible.plan.result import InstancePlan, ModelSnapshot, Release

CURRENT = "/opt/vllm/current"
# An engine without a socket is tried at a port of its own.
PORT_OFFSET = 500


def rehearse(
    context: Context, release: Release, models: list[ModelSnapshot], instances: list[InstancePlan]
) -> list[InstancePlan]:
    """The instances with their proofs and, where memory allows them, their trials.

    Args:
        context: Inputs and findings.
        release: The release that they will run.
        models: The snapshots, by which their weights are known.
        instances: The instances as they will serve.
    """
    sizes = {model.name: serving.size_of(model) for model in models}
    return [_with_rehearsals(context, release, sizes, instances, one) for one in instances]


def _with_rehearsals(
    context: Context,
    release: Release,
    sizes: dict[str, int],
    instances: list[InstancePlan],
    one: InstancePlan,
) -> InstancePlan:
    gib = _least_gib(context, one)
    beside, why = _fits_beside(context, release, sizes, instances, one, gib)
    context.because(f"{one.name}.trial", "beside the serving one" if beside else "none", why)
    small = {KV_CACHE: str(gib)}
    return one.model_copy(
        update={
            "proof": _renamed(context, release, one, {}),
            "trial": _renamed(context, release, one, small) if beside else None,
        }
    )


def _least_gib(context: Context, one: InstancePlan) -> int:
    """GiB of KV cache for one text of the length that the instance takes."""
    words = next(words for words in context.words.instances if words.name == one.name)
    longest = one.config.get("max-model-len")
    said = {"max_model_len": longest if isinstance(longest, int) else None}
    asked = words.model_copy(update=said)
    return length.needed_gib(asked, context.models[one.model])


def _fits_beside(
    context: Context,
    release: Release,
    sizes: dict[str, int],
    instances: list[InstancePlan],
    one: InstancePlan,
    gib: int,
) -> tuple[bool, str]:
    """Whether a second engine fits beside all that serve, and why."""
    only = "a change is loaded as a configuration, and starts in the place of the one that serves"
    if not context.words.releases.trial:
        return False, f"vllm_releases.trial is off: {only}"
    if release.device == "gpu":
        return False, f"a GPU's memory is taken by the engine that serves: {only}"
    if not sizes[one.model]:
        return False, f"the size of {one.model} is not known: {only}"
    domain = next(part for part in domains(context) if one.name in {i.name for i in part.instances})
    total, beside = domain.memory_mib, {other.name for other in domain.instances}
    each = {words.name: engine_mib(words, sizes) for words in context.words.instances}
    taken = SYSTEM_RESERVE_MIB + sum(
        each[other.name] + int(other.environment[KV_CACHE]) * MIB_PER_GIB
        for other in instances
        if other.name in beside
    )
    needed = each[one.name] + gib * MIB_PER_GIB
    figures = (
        f"it needs {needed} MiB with a KV cache of {gib} GiB, {max(0, total - taken)} are left"
    )
    if total - taken < needed:
        return False, f"{figures}: {only}"
    return True, f"{figures}: a change is started and asked beside the one that serves"


def _renamed(
    context: Context, release: Release, one: InstancePlan, environment: dict[str, str]
) -> Rehearsal:
    """The instance under another name: files, directories, socket and port of its own.

    Args:
        context: Inputs and findings.
        release: The release that it runs, by its own path: the link still points elsewhere.
        one: The instance as it will serve.
        environment: What differs besides.
    """
    name = f"{one.name}{TRIAL}"
    places = _Places(one.name, name, release.path)
    config = places.moved(one.config)
    address = one.address
    if address is not None:
        port = int(one.config["port"]) + PORT_OFFSET
        config, address = {**config, "port": port}, f"{one.config['host']}:{port}"
    versions = context.data.versions
    arguments = ["serve", "--config", f"/etc/vllm/{name}.yaml"]
    has_file = versions.has_config_file(context.version)
    drop_in = places.moved(one.drop_in)
    if not has_file:
        arguments = unit.words(config)
        drop_in = [line.replace(f"--port {one.config.get('port')}", f"--port {config.get('port')}")
                   for line in drop_in]  # fmt: skip
    return Rehearsal(
        name=name,
        socket=places.moved(one.socket),
        address=address,
        drop_in=drop_in,
        config=config,
        files=[PlacedFile(**places.moved(file.model_dump())) for file in one.files],
        environment={**places.moved(one.environment), **environment},
        command=[unit.quoted(word) for word in arguments],
        builds=versions.builds_config(context.version),
    )


class _Places:
    """Where an instance's own things lie, and where those of its double do."""

    def __init__(self, name: str, other: str, release: str) -> None:
        own, end = re.escape(name), "(?=/|$)"
        config = rf"/etc/vllm/{own}\.(?=yaml|env|jinja|logging\.json)"
        self.moves = [
            (re.compile(config), f"/etc/vllm/{other}."),
            (re.compile(f"/run/vllm/{own}{end}"), f"/run/vllm/{other}"),
            (re.compile(f"/var/cache/vllm/{own}{end}"), f"/var/cache/vllm/{other}"),
            (re.compile(f"{CURRENT}{end}"), release),
        ]

    def moved(self, value: Any) -> Any:
        """A value with all paths in it moved."""
        if isinstance(value, dict):
            return {key: self.moved(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self.moved(one) for one in value]
        if not isinstance(value, str):
            return value
        for pattern, place in self.moves:
            value = pattern.sub(place, value)
        return value
