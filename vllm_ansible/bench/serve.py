"""Runs the engines in turn on this computer, round after round, and takes their figures."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from vllm_ansible.bench import serve_engine, serve_llama, serve_models, serve_planned
from vllm_ansible.bench.serve_report import (
    Bandwidth,
    Candidate,
    Load,
    Prompt,
    Round,
    ServeError,
    ServeReport,
)
from vllm_ansible.bench.serve_trial import Cell, Engine, HostError, load
from vllm_ansible.paths import PROJECT
from vllm_ansible.plan import kernels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_ansible.lab.system import Progress

# Words of a prompt; a word is about a token.
PROMPTS: dict[Prompt, int] = {"short": 32, "long": 512}
TOKENS = 128
_SLOTS = 16
# All are up at a time, so that each has as little as sixteen of these texts need.
_KV_GIB = 1
_PATIENCE = 900  # seconds until an engine must be ready
_NAME = "bench"
_PLUGINS = PROJECT / "roles/openai_server/files/python.d"
_OFFLINE = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Setting:
    """What is measured, and with what.

    Attributes:
        model: A name of `serve_models.NAMES`, or a model's directory.
        streams: How many ask at a time.
        prompts: Kinds of prompts.
        rounds: How often each engine is started; two or more.
        turns: How often each load has its turn in a round.
        engine: An environment with vLLM; None takes what is there or makes one.
        cache: For models, llama.cpp's server and an environment.
        llama: Whether llama.cpp takes part.
        defaults: Whether vLLM's defaults take part.
    """

    model: str
    streams: Sequence[int]
    prompts: Sequence[Prompt]
    rounds: int
    turns: int
    engine: Path | None
    cache: Path
    llama: bool = True
    defaults: bool = True


def measure_serve(setting: Setting, progress: Progress) -> ServeReport:
    """Compares vLLM's defaults, vLLM as planned and llama.cpp's server.

    Args:
        setting: What is measured.
        progress: Told what is going on.

    Raises:
        ServeError: Something that it needs cannot be had.
    """
    if shutil.which("g++") is None:
        raise ServeError("vLLM compiles kernels with g++, which is not here: apt-get install g++")
    setting.cache.mkdir(parents=True, exist_ok=True)
    model = serve_models.model(setting.model, setting.cache, progress)
    environment = serve_engine.environment(setting.engine, setting.cache, progress)
    cores = len(os.sched_getaffinity(0))
    bandwidth = Bandwidth(
        one=serve_engine.read_bandwidth(environment, 1),
        all=serve_engine.read_bandwidth(environment, cores),
    )
    with tempfile.TemporaryDirectory(prefix="vllm-bench-") as folder:
        benches = _benches(setting, model, environment, Path(folder), progress)
        rounds: dict[Candidate, list[Round]] = {name: [] for name in benches}
        try:
            for number in range(setting.rounds):
                for name, done in one_round(setting, benches, number, progress).items():
                    rounds[name].append(done)
        except HostError as error:
            raise ServeError(str(error)) from error
        return ServeReport(
            model=setting.model,
            weights_bytes=serve_models.weights_bytes(model),
            version=environment.version,
            processor=_processor(),
            cores=cores,
            bandwidth=bandwidth,
            rounds=rounds,
            settings=benches["planned"].settings,
        )


class Bench:
    """One engine and how it is started.

    Args:
        argv: The program and its arguments.
        variables: Its environment.
        folder: Its own; its socket is in it.
        settings: What it was told beyond the defaults.
    """

    def __init__(
        self, argv: list[str], variables: dict[str, str], folder: Path, settings: dict[str, str]
    ) -> None:
        self._argv, self._variables, self._folder = argv, variables, folder
        self.settings = settings

    def engine(self) -> Engine:
        """The engine, which runs for as long as a block lasts."""
        log = self._folder / "log.txt"
        return Engine(self._argv, self._variables, self._folder / "api.sock", log, _PATIENCE)


def one_round(
    setting: Setting, benches: Mapping[Candidate, Bench], number: int, progress: Progress
) -> dict[Candidate, Round]:
    """Starts one engine after the other, and has each load asked of all of them in turn.

    What else the computer and its neighbours do changes from minute to minute: of two engines
    that are asked within seconds the ratio is theirs, of two that had their turns apart it is not.

    Args:
        setting: What is measured.
        benches: The engines.
        number: Of the round.
        progress: Told how far it is.

    Raises:
        HostError: One does not start, or does not answer.
    """
    loads: dict[Candidate, list[Load]] = {name: [] for name in benches}
    with ExitStack() as up:
        running = {}
        for name, bench in benches.items():
            running[name] = up.enter_context(bench.engine())
            progress(f"round {number + 1}, {name}: ready after {running[name].seconds:.1f} s")
            # What an engine does at the first question only is not what is compared.
            load(running[name].path, _NAME, Cell(8, 2, 8), f"{number} first")
            # An engine that idles looks for work, for a second without rest and then now and again,
            # which a thread of the one that is asked has to wait for.
            running[name].pause()
        cells = [(prompt, n) for prompt in setting.prompts for n in setting.streams]
        for turn, (place, (prompt, streams)) in product(range(setting.turns), enumerate(cells)):
            seed = f"{number} {turn} {prompt} {streams}"
            cell, rates = Cell(PROMPTS[prompt], streams, TOKENS), []
            # Whoever is asked first may find the computer in another mood.
            for name in rotated(list(running), number + turn + place):
                running[name].resume()
                found = load(running[name].path, _NAME, cell, seed)
                running[name].pause()
                loads[name].append(Load(prompt=prompt, streams=streams, **_rounded(found)))
                rates.append(f"{name} {found.tokens_per_s:.1f}")
            told = ", ".join(sorted(rates))
            progress(f"round {number + 1}, {prompt} prompts, {streams} at a time: {told} tokens/s")
        return {
            name: Round(
                start_s=round(engine.seconds, 1), memory_mib=engine.memory_mib(), loads=loads[name]
            )
            for name, engine in running.items()
        }


def rotated(names: Sequence[Candidate], by: int) -> list[Candidate]:
    """The names in the same order, begun so many places later."""
    start = by % len(names)
    return [*names[start:], *names[:start]]


def _rounded(found: object) -> dict[str, float]:
    return {
        name: round(getattr(found, name), 1) for name in ("tokens_per_s", "first_ms", "each_ms")
    }


def _benches(
    setting: Setting, model: Path, environment: serve_engine.Environment, folder: Path,
    progress: Progress,
) -> dict[Candidate, Bench]:  # fmt: skip
    """The engines in the order in which they have their turns."""
    found: dict[Candidate, Bench] = {}
    if setting.defaults:
        found["defaults"] = _defaults(model, environment, _own(folder, "defaults"))
    found["planned"] = _planned(setting, model, environment, _own(folder, "planned"), progress)
    if setting.llama:
        cores = len(os.sched_getaffinity(0))
        program = serve_llama.server(setting.cache, cores, progress)
        weights = serve_models.gguf(model, setting.cache / "gguf" / f"{model.name}.gguf")
        own = _own(folder, "llama")
        argv = serve_llama.argv(program, weights, own / "api.sock", cores, _SLOTS)
        found["llama.cpp"] = Bench(argv, dict(os.environ), own, {})
    return found


def _own(folder: Path, name: str) -> Path:
    own = folder / name
    own.mkdir()
    return own


def _defaults(model: Path, environment: serve_engine.Environment, own: Path) -> Bench:
    """The engine told nothing but what, where and how long; unset, its cache takes all memory."""
    argv = [
        str(environment.prefix / "bin/vllm"), "serve", str(model), "--served-model-name", _NAME,
        "--uds", str(own / "api.sock"), "--max-model-len", str(serve_planned.LENGTH),
    ]  # fmt: skip
    variables = {
        **_inherited(environment), **_OFFLINE,
        "VLLM_CPU_KVCACHE_SPACE": str(_KV_GIB), "HOME": str(own),
        "VLLM_CACHE_ROOT": str(own / "vllm"), "XDG_CACHE_HOME": str(own / "xdg"),
        "TORCHINDUCTOR_CACHE_DIR": str(own / "inductor"),
    }  # fmt: skip
    return Bench(argv, variables, own, {})


def _planned(
    setting: Setting, model: Path, bare: serve_engine.Environment, own: Path, progress: Progress
) -> Bench:
    """As the plan has it, in an environment with what the plan adds for this processor."""
    version = bare.version.split("+")[0]
    weights = serve_models.weights_bytes(model)
    plan = serve_planned.planned(
        serve_planned.facts(), model, weights, version, kv_cache_gib=_KV_GIB
    )
    more = plan.requirements
    environment = serve_engine.environment(setting.engine, setting.cache, progress, more)
    one = serve_planned.moved(
        plan,
        {
            str(plan.config["model"]): str(model),
            f"/run/vllm/{serve_planned.NAME}": str(own),
            f"/var/cache/vllm/{serve_planned.NAME}": str(own / "cache"),
            "/etc/vllm": str(own),
            "/opt/vllm/current": str(environment.prefix),
        },
    )
    for path, content in one.files.items():
        Path(path).write_text(content, encoding="utf-8")
    shutil.copytree(_PLUGINS, own / Path(kernels.PLUGINS).name)
    config = own / "config.yaml"
    config.write_text(yaml.safe_dump(one.config), encoding="utf-8")
    (own / "cache").mkdir()
    argv = [str(environment.prefix / "bin/vllm"), "serve", "--config", str(config)]
    said = {**plan.config, **plan.environment}
    settings = {name: str(said.get(name, "")) for name in plan.reasons if name in said}
    return Bench(argv, _inherited(environment) | one.environment, own, settings)


def _inherited(environment: serve_engine.Environment) -> dict[str, str]:
    """A unit's environment: no variable of whoever measures."""
    system = os.defpath.removeprefix(":")
    return {"PATH": f"{environment.prefix}/bin:{system}", "LANG": "C.UTF-8"}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((one.partition(":")[2].strip() for one in lines if one.startswith("model n")), "?")
