"""Decisions about what is served: models, and each instance's configuration and environment."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from vllm_ansible.plan import gpu, unit
from vllm_ansible.plan.result import InstancePlan, ModelSnapshot
from vllm_ansible.schema.words import SECRET_NAME

if TYPE_CHECKING:
    from vllm_ansible.data import Device, Model
    from vllm_ansible.plan.context import Context
    from vllm_ansible.schema import Instance

MODELS = "/srv/models"
MIB_PER_GIB = 1024
# Beside weights and KV cache, an engine's processes were seen to need about this much (MiB).
ENGINE_OVERHEAD_MIB = 2048
SYSTEM_RESERVE_MIB = 1024
MOST_KV_GIB = 16
FIRST_LOOPBACK_PORT = 18000


def size_of(model: ModelSnapshot | None) -> int:
    """A model's size in MiB, rounded up; 0 where it is not known."""
    return -(-(model.size_bytes or 0) // 2**20) if model else 0


def catalogue(context: Context) -> dict[str, Model]:
    """All models that instances may name: the project's and the inventory's."""
    return {**context.data.models, **context.words.models}


def choose_models(context: Context) -> list[ModelSnapshot]:
    """The snapshots that the instances need, each once, by name."""
    known = catalogue(context)
    snapshots = []
    for name in sorted({instance.model for instance in context.words.instances}):
        model = known[name]
        snapshots.append(
            ModelSnapshot(
                name=name,
                revision=model.revision,
                path=f"{MODELS}/{name}/{model.revision}",
                sources=[source.model_dump(exclude_none=True) for source in model.sources],
                include=model.include,
                files=model.files,
                size_bytes=sum(f.size for f in model.files.values()) or None,
            )
        )
        if not model.files:
            context.notices.append(
                f"the size of {name} is not known before it is fetched (vllm_models.{name}.files "
                f"can say it): memory and disk are checked without it"
            )
    return snapshots


def choose_instances(
    context: Context, device: Device, models: list[ModelSnapshot]
) -> list[InstancePlan]:
    """Every instance with its configuration and environment."""
    by_name = {model.name: model for model in models}
    memory = _kv_cache(context, by_name) if device == "cpu" else {}
    sizes = {name: size_of(model) for name, model in by_name.items()}
    shares = gpu.assign(context, by_name, sizes) if device == "gpu" else {}
    return [
        _instance(context, device, index, by_name[words.model], memory, shares.get(words.name))
        for index, words in enumerate(context.words.instances)
    ]


def _instance(
    context: Context,
    device: Device,
    index: int,
    model: ModelSnapshot,
    memory: dict[str, int],
    share: gpu.Share | None,
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
    config |= _arguments(context, device, words, share)
    environment = _environment(context, device, index, memory, share)
    environment |= words.env
    has_file = context.data.versions.has_config_file(context.version)
    if not has_file:
        _started_with_arguments(context, words)
    return InstancePlan(
        name=words.name,
        unit=f"vllm@{words.name}.service",
        model=words.model,
        kind=catalogue(context)[words.model].kind,
        model_path=model.path,
        port=words.port,
        url=f"http://{door_address(context.words.gateway.listen)}:{words.port}",
        served_names=names,
        socket=socket,
        address=address,
        drop_in=unit.drop_in(device, config, has_socket=has_socket, has_config_file=has_file),
        config=config,
        environment=environment,
        secret_names=sorted(name for name in words.env if SECRET_NAME.search(name)),
        ready_timeout=words.ready_timeout,
    )


def _started_with_arguments(context: Context, words: Instance) -> None:
    """Says how it is started, and refuses secrets, which every user of the host could then read."""
    why = f"vLLM {context.version} reads no --config file that says all"
    context.because(f"{words.name}.start", "arguments", why)
    for name in words.extra_args:
        if SECRET_NAME.search(name):
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


def _arguments(
    context: Context, device: Device, words: Instance, share: gpu.Share | None
) -> dict[str, Any]:
    """The arguments of `vllm serve` that the version has and the instance wants."""
    config: dict[str, Any] = {"dtype": gpu.choose_dtype(context, words, share)}
    if share is not None and share.memory_share is not None:
        config["gpu-memory-utilization"] = share.memory_share
    if words.max_model_len is not None:
        config["max-model-len"] = words.max_model_len
    else:
        context.because(
            f"{words.name}.max-model-len", "the model's own", "the inventory gives none"
        )
    if device == "cpu" and not words.compile:
        config["enforce-eager"] = True
        context.because(
            f"{words.name}.enforce-eager", "true",
            "compile is off: ready after 45 s instead of 100 to 130, at 49 instead of 56 tokens/s "
            "(SmolLM2-135M, 2 cores), and no compiler on the host",
        )  # fmt: skip
    # The door logs requests; what is asked and answered is nobody's business.
    optional: dict[str, Any] = {
        "disable-log-requests": True,
        "disable-uvicorn-access-log": True,
        "shutdown-timeout": 30,
    }
    known = context.data.versions.knows_flag
    if not known(context.version, "disable-uvicorn-access-log"):
        config["uvicorn-log-level"] = "warning"
    if device == "cpu":
        # Older engines die when one CPU step takes longer than their heartbeat.
        optional["disable-frontend-multiprocessing"] = True
    elif words.kv_cache_gib is not None:
        optional["kv-cache-memory-bytes"] = words.kv_cache_gib * MIB_PER_GIB * 2**20
    config |= {flag: value for flag, value in optional.items() if known(context.version, flag)}
    return config | gpu.arguments(words)


def _environment(
    context: Context,
    device: Device,
    index: int,
    memory: dict[str, int],
    share: gpu.Share | None,
) -> dict[str, str]:
    """The environment: where caches go, that nothing calls out, memory and cores."""
    words = context.words.instances[index]
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
        "VLLM_NO_USAGE_STATS": "1",
        "XDG_CACHE_HOME": f"{cache}/xdg",
        "XDG_CONFIG_HOME": f"{cache}/config",
    }
    if device == "cpu":
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(memory[words.name])
        environment["VLLM_CPU_OMP_THREADS_BIND"] = _cores(context, index)
        if not words.compile:
            # The sampler compiles under --enforce-eager too; without a compiler the engine dies.
            environment["TORCH_COMPILE_DISABLE"] = "1"
    elif share is not None and share.visible is not None:
        # As nvidia-smi counts; CUDA would count the fastest first.
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        environment["CUDA_VISIBLE_DEVICES"] = share.visible
    return environment


def _cores(context: Context, index: int) -> str:
    """The cores of one instance: disjoint ranges where several share the host."""
    count, cores = len(context.words.instances), context.facts.cores
    name = context.words.instances[index].name
    subject = f"{name}.VLLM_CPU_OMP_THREADS_BIND"
    if count == 1:
        context.because(subject, "auto", "alone on the host: vLLM's own choice measured fastest")
        return "auto"
    if cores < count:
        context.because(subject, "nobind", f"{count} instances share {cores} cores")
        return "nobind"
    share = cores // count
    first = index * share
    text = f"{first}-{first + share - 1}" if share > 1 else str(first)
    context.because(subject, text, f"{cores} cores shared by {count} instances")
    return text


def _kv_cache(context: Context, models: dict[str, ModelSnapshot]) -> dict[str, int]:
    """GiB of KV cache per instance: as said, else half of an equal share of what is left.

    Unset, vLLM would take 0.92 of the memory and refuse to start when less is free.
    """
    instances = context.words.instances
    fixed = SYSTEM_RESERVE_MIB + sum(
        ENGINE_OVERHEAD_MIB + size_of(models[one.model]) + (one.kv_cache_gib or 0) * MIB_PER_GIB
        for one in instances
    )
    total, open_ones = context.facts.memory_mib, [i for i in instances if i.kv_cache_gib is None]
    left = total - fixed
    if left < len(open_ones) * MIB_PER_GIB:
        needed = fixed + len(open_ones) * MIB_PER_GIB
        context.problems.append(
            f"memory is short: {len(instances)} instance(s) need {needed} MiB (weights, KV cache, "
            f"{ENGINE_OVERHEAD_MIB} MiB for each engine, {SYSTEM_RESERVE_MIB} for the system), the "
            f"host has {total} MiB: fewer instances, a smaller model or a smaller kv_cache_gib"
        )
    share = left // 2 // max(len(open_ones), 1) // MIB_PER_GIB
    chosen = min(max(share, 1), MOST_KV_GIB)
    result = {}
    for one in instances:
        result[one.name] = one.kv_cache_gib or chosen
        if one.kv_cache_gib is None:
            why = f"half of this instance's share of {left} MiB, {MOST_KV_GIB} GiB at most"
            context.because(f"{one.name}.VLLM_CPU_KVCACHE_SPACE", f"{chosen} GiB", why)
    return result
