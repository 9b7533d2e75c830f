"""Decisions about what is served: models, and each instance's configuration and environment."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_ansible.plan import (
    formats,
    gpu,
    kernels,
    kinds,
    length,
    logs,
    share,
    spread,
    threads,
    unit,
)
from vllm_ansible.plan.context import SAID
from vllm_ansible.plan.result import InstancePlan, ModelSnapshot, PlacedFile
from vllm_ansible.schema.words import SECRET_NAME, SECRET_OPTION

if TYPE_CHECKING:
    from vllm_ansible.data import Device, Model
    from vllm_ansible.plan.context import Context
    from vllm_ansible.schema import Instance

MODELS = "/srv/models"
# Kinds of sources that can be held to a number of bytes per second; git-lfs and the clients of the
# hubs have no such setting.
LIMITED = ("archive", "files")
FIRST_LOOPBACK_PORT = 18000
PRELOAD = "LD_PRELOAD"
# How many requests and how many of their tokens one step may take.
BATCH = ("max-num-seqs", "max-num-batched-tokens")
UNSET_BATCH = {
    "cpu": "on two cores a quarter and twice as many tokens were slower (scripts/tune tries both)",
    "gpu": "it goes by the GPU's memory",
}


def size_of(model: ModelSnapshot | None) -> int:
    """A model's size in MiB, rounded up; 0 where it is not known."""
    return -(-(model.size_bytes or 0) // 2**20) if model else 0


def choose_models(context: Context) -> list[ModelSnapshot]:
    """The snapshots that the instances need, each once, by name."""
    known = context.models
    snapshots = []
    for name in sorted({instance.model for instance in context.words.instances}):
        model = known[name]
        size = model.size_bytes or sum(f.size for f in model.files.values()) or None
        snapshots.append(
            ModelSnapshot(
                name=name,
                revision=model.revision,
                path=f"{MODELS}/{name}/{model.revision}",
                sources=_sources(context, name, model),
                include=model.include,
                files=model.files,
                size_bytes=size,
                **context.words.downloads.model_dump(),
            )
        )
        if size is None:
            context.notices.append(
                f"the size of {name} is not known before it is fetched (size_bytes or files of "
                f"vllm_models.{name} can say it): memory and disk are checked without it"
            )
    return snapshots


def _sources(context: Context, name: str, model: Model) -> list[dict[str, str]]:
    """A model's sources, with a fingerprint in the place of a token."""
    found = []
    for index, source in enumerate(model.sources):
        said = source.model_dump(exclude_none=True, exclude={"token", "token_file"})
        if source.token is not None or source.token_file is not None:
            path = f"vllm_models.{name}.sources[{index}]"
            # Without the vault's password there is none: such a plan is only looked at.
            said["credential"] = context.secrets.get(path, "sealed")
        found.append(said)
    limit = context.words.downloads.limit_mib_s
    if limit is not None and not any(one["kind"] in LIMITED for one in found):
        context.problems.append(
            f"vllm_downloads.limit_mib_s: {name} has sources of the kinds "
            f"{', '.join(sorted({one['kind'] for one in found}))} alone, which cannot be held to a "
            f"rate: add a source of the kinds {', '.join(LIMITED)}, or leave the limit out"
        )
    return found


def choose_instances(
    context: Context, device: Device, models: list[ModelSnapshot]
) -> list[InstancePlan]:
    """Every instance with its configuration and environment."""
    by_name = {model.name: model for model in models}
    sizes = {name: size_of(model) for name, model in by_name.items()}
    if device == "gpu":
        spread_out = spread.over_gpus(context, sizes)
        context.words = context.words.model_copy(update={"instances": spread_out})
    else:
        settled = formats.settled(context, sizes)
        context.words = context.words.model_copy(update={"instances": settled})
    parts = _parts(context, device, by_name, sizes)
    _same_names(context)
    return [
        _instance(context, device, index, by_name[words.model], parts[words.name])
        for index, words in enumerate(context.words.instances)
    ]


def _same_names(context: Context) -> None:
    """Says which names lead to several instances: whoever asks tells them apart by port alone."""
    found: dict[str, list[str]] = {}
    for one in context.words.instances:
        for name in dict.fromkeys(one.served_names or [one.model]):
            found.setdefault(name, []).append(one.name)
    context.notices += [
        f"{', '.join(names)} are all asked for as {name}: served_names tells them apart"
        for name, names in found.items()
        if len(names) > 1
    ]


class Part(NamedTuple):
    """One instance's part of its host.

    Attributes:
        cache_gib: Its KV cache; None where the engine takes what is left of a GPU.
        cores: VLLM_CPU_OMP_THREADS_BIND; None on a GPU.
        share: Its GPUs; None on a CPU.
    """

    cache_gib: int | None
    cores: str | None
    share: gpu.Share | None


def _parts(
    context: Context,
    device: Device,
    snapshots: dict[str, ModelSnapshot],
    sizes: dict[str, int],
) -> dict[str, Part]:
    """What each instance gets of the host, by name."""
    instances = context.words.instances
    if device == "gpu":
        shares = gpu.assign(context, snapshots, sizes)
        caches = {
            i.name: _gpu_cache(context, i, shares.get(i.name), sizes[i.model]) for i in instances
        }
        return {i.name: Part(caches[i.name], None, shares.get(i.name)) for i in instances}
    memory, cores = share.kv_cache(context, context.models, sizes), share.cores(context)
    return {i.name: Part(memory[i.name], cores[i.name], None) for i in instances}


def _gpu_cache(
    context: Context, words: Instance, part: gpu.Share | None, weights: int
) -> int | None:
    """GiB of KV cache on a GPU: as said; estimated for an engine that cannot fit a length to it."""
    finds_out = context.data.versions.has_auto_length(context.version)
    if words.kv_cache_gib or finds_out or words.max_model_len or part is None:
        value = f"{words.kv_cache_gib} GiB" if words.kv_cache_gib else "what is left"
        why = SAID if words.kv_cache_gib else "vLLM measures at its start what it is"
        context.because(f"{words.name}.KV cache", value, why)
        return words.kv_cache_gib
    return gpu.left_for_cache(context, words, part, weights)


def _instance(
    context: Context, device: Device, index: int, model: ModelSnapshot, part: Part
) -> InstancePlan:
    words = context.words.instances[index]
    has_socket = context.data.versions.knows_flag(context.version, "uds")
    socket = f"/run/vllm/{words.name}/api.sock" if has_socket else None
    address = None if has_socket else f"127.0.0.1:{FIRST_LOOPBACK_PORT + index}"
    names = words.served_names or [words.model]
    config: dict[str, Any] = {"model": model.path, "served-model-name": names}
    if socket:
        config["uds"] = socket
    else:
        config |= {"host": "127.0.0.1", "port": FIRST_LOOPBACK_PORT + index}
        why = f"vLLM {context.version} has no --uds"
        context.because(f"{words.name}.listen", str(address), why)
    config |= _arguments(context, device, words, part)
    environment = _environment(context, device, words, part) | words.env
    has_file = context.data.versions.has_config_file(context.version)
    if not has_file:
        _started_with_arguments(context, words)
    kind = context.models[words.model].kind
    return InstancePlan(
        name=words.name,
        unit=f"vllm@{words.name}.service",
        model=words.model,
        kind=kind,
        model_path=model.path,
        port=words.port,
        url=f"http://{door_address(context.words.gateway.listen)}:{words.port}",
        routes=context.words.gateway.routes or kinds.ROUTES[kind],
        served_names=names,
        socket=socket,
        address=address,
        drop_in=unit.drop_in(device, config, unit.Form(has_socket, has_file), words.ready_timeout),
        config=config,
        files=_files(context, words),
        environment=environment,
        secret_names=sorted(name for name in words.env if SECRET_NAME.search(name)),
        secret_options=sorted(name for name in config if SECRET_OPTION.search(name)),
        ready_timeout=words.ready_timeout,
    )


def _files(context: Context, words: Instance) -> list[PlacedFile]:
    """The files that an instance reads beside its configuration and its model."""
    files = [PlacedFile(path=logs.config_path(words), content=logs.logging_config(context, words))]
    template = context.words.chat_templates.get(words.name)
    if template is not None:
        files.append(PlacedFile(path=kinds.template_path(words), content=template))
    return files


def _started_with_arguments(context: Context, words: Instance) -> None:
    """Says how it is started, and refuses secrets, which every user of the host could then read."""
    why = f"vLLM {context.version} reads no --config file that says all"
    context.because(f"{words.name}.start", "arguments", why)
    for name in words.extra_args:
        if SECRET_OPTION.search(name):
            context.problems.append(
                f"vllm_instances {words.name}: extra_args.{name} looks like a secret, and vLLM "
                f"{context.version} is started with arguments, which everyone on the host can "
                f"read: say it in env, or take {context.data.versions.config_file_since} or newer"
            )


def door_address(listen: list[str]) -> str:
    """Where users find the door, as a URL writes it: an address others can reach, if any."""
    addresses = [ip_address(one) for one in listen]
    chosen = next((a for a in addresses if not a.is_loopback and not a.is_unspecified), None)
    chosen = chosen or next((a for a in addresses if a.is_loopback), None)
    text = str(chosen or ip_address("127.0.0.1"))
    return f"[{text}]" if ":" in text else text


def _arguments(context: Context, device: Device, words: Instance, part: Part) -> dict[str, Any]:
    """The arguments of `vllm serve` that the version has and the instance wants."""
    model, known = context.models[words.model], context.data.versions.knows_flag
    on_cpu = device == "cpu"
    config: dict[str, Any] = {
        "dtype": words.dtype if on_cpu else gpu.choose_dtype(context, words, part.share)
    }
    if part.share is not None and part.share.memory_share is not None:
        config["gpu-memory-utilization"] = part.share.memory_share
    if on_cpu:
        config |= kernels.arguments(context, words)
    config |= length.arguments(context, device, words, model, part.cache_gib)
    _left_to_vllm(context, device, words)
    config |= kinds.arguments(context, words, model) | logs.arguments(context, words)
    optional: dict[str, Any] = {"shutdown-timeout": 30}
    if on_cpu:
        # Older engines die when one CPU step takes longer than their heartbeat.
        optional["disable-frontend-multiprocessing"] = True
    elif words.kv_cache_gib is not None:
        optional["kv-cache-memory-bytes"] = words.kv_cache_gib * 2**30
    config |= {flag: value for flag, value in optional.items() if known(context.version, flag)}
    return config | _more(context, words)


def _left_to_vllm(context: Context, device: Device, words: Instance) -> None:
    """Notes what is not set unless the inventory does, and why: it was looked at all the same."""
    said = [f"{flag} {value}" for flag, value in gpu.arguments(words).items() if flag in BATCH]
    why = SAID if said else UNSET_BATCH[device]
    context.because(f"{words.name}.batch sizes", ", ".join(said) or "vLLM's own", why)
    if device == "cpu":
        why = SAID if PRELOAD in words.env else "tcmalloc and Intel's OpenMP were no faster"
        context.because(f"{words.name}.{PRELOAD}", words.env.get(PRELOAD, "none"), why)


def _more(context: Context, words: Instance) -> dict[str, Any]:
    """What the inventory says in `extra_args`, less what its version does not have."""
    said, version = gpu.arguments(words), context.version
    gone = [flag for flag in said if not context.data.versions.knows_flag(version, flag)]
    for flag in gone:
        span = context.data.versions.flags[flag]
        bounds = {"since": span.since, "until": span.until}
        when = ", ".join(f"{word} {at}" for word, at in bounds.items() if at)
        context.notices.append(
            f"{words.name}: extra_args.{flag} is left out: vLLM {version} has no such option "
            f"({when})"
        )
    return {flag: value for flag, value in said.items() if flag not in gone}


def _environment(context: Context, device: Device, words: Instance, part: Part) -> dict[str, str]:
    """The environment: where caches go, that nothing calls out, memory and cores."""
    cache = f"/var/cache/vllm/{words.name}"
    environment = {
        "DO_NOT_TRACK": "1",
        "HF_HOME": f"{cache}/huggingface",
        "HF_HUB_OFFLINE": "1",
        "HOME": cache,
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "TRANSFORMERS_OFFLINE": "1",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "VLLM_CACHE_ROOT": f"{cache}/vllm",
        "VLLM_CONFIG_ROOT": f"{cache}/config",
        "VLLM_LOGGING_CONFIG_PATH": logs.config_path(words),
        "VLLM_NO_USAGE_STATS": "1",
        "XDG_CACHE_HOME": f"{cache}/xdg",
        "XDG_CONFIG_HOME": f"{cache}/config",
    }
    if device == "cpu":
        environment[share.KV_CACHE] = str(part.cache_gib)
        environment |= threads.environment(context, words, str(part.cores))
        environment |= kernels.environment(context, words)
    elif part.share is not None and part.share.visible is not None:
        # As nvidia-smi counts; CUDA would count the fastest first.
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        environment["CUDA_VISIBLE_DEVICES"] = part.share.visible
    return environment
