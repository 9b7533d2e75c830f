"""What engines took and gave, side by side, and whether the planned one is within its targets."""

from __future__ import annotations

import statistics
from typing import Literal

from pydantic import BaseModel, ConfigDict, computed_field

from vllm_ansible.bench.verdict import Bound, Verdict

Candidate = Literal["defaults", "planned", "llama.cpp"]
Prompt = Literal["short", "long"]

# Against vLLM as it comes: nowhere slower, faster where one asks and where many do.
FASTER, FASTER_AT = 1.15, (1, 16)
LEVEL_WITH_LLAMA_AT = 16
STARTS_IN = 0.5


class ServeError(Exception):
    """Engines cannot be compared here; the message says why, and the way out."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Load(_Frozen):
    """One load in one round: what was asked, and what that took.

    Attributes:
        prompt: Whether its prompts are short or long.
        streams: Requests at a time.
        tokens_per_s: New tokens of all requests, per second.
        first_ms: Milliseconds to the first token, the median of the requests.
        each_ms: Milliseconds for each further token, the median.
    """

    prompt: Prompt
    streams: int
    tokens_per_s: float
    first_ms: float
    each_ms: float


class Round(_Frozen):
    """One candidate in one round.

    Attributes:
        start_s: Seconds from its start until it says that it is healthy.
        memory_mib: Of all its processes at the end, shared pages counted once.
        loads: The loads, each as often as it had its turn.
    """

    start_s: float
    memory_mib: int
    loads: list[Load]


class Bandwidth(_Frozen):
    """GB/s that this computer reads from memory with one thread and with all."""

    one: float
    all: float


class ServeReport(_Frozen):
    """The comparison. The first round starts with empty caches, the further ones do not.

    Attributes:
        model: What was served.
        weights_bytes: Bytes of its weights.
        version: The engine's.
        processor: This computer's.
        cores: How many it has.
        bandwidth: Of its memory.
        rounds: Of each candidate, in turn.
        settings: What the planned engine was told beyond the defaults.
    """

    model: str
    weights_bytes: int
    version: str
    processor: str
    cores: int
    bandwidth: Bandwidth
    rounds: dict[Candidate, list[Round]]
    settings: dict[str, str]

    def figures(self, who: Candidate, prompt: Prompt, streams: int, figure: str) -> list[float]:
        """A load's figure each time that it was asked for, in that order."""
        return [
            getattr(load, figure)
            for one in self.rounds.get(who, [])
            for load in one.loads
            if (load.prompt, load.streams) == (prompt, streams)
        ]

    def median(self, who: Candidate, prompt: Prompt, streams: int, figure: str) -> float | None:
        """The median of a load's figure; None where it was not measured."""
        found = self.figures(who, prompt, streams, figure)
        return statistics.median(found) if found else None

    def start(self, who: Candidate, *, first: bool) -> float | None:
        """Seconds of the first start, or the median of the further ones."""
        seconds = [one.start_s for one in self.rounds.get(who, [])]
        chosen = seconds[:1] if first else seconds[1:]
        return statistics.median(chosen) if chosen else None

    def memory(self, who: Candidate) -> float | None:
        """MiB, the median over the rounds."""
        found = [one.memory_mib for one in self.rounds.get(who, [])]
        return statistics.median(found) if found else None

    @property
    def loads(self) -> list[tuple[Prompt, int]]:
        """The loads that were measured, in their order."""
        seen = [one for rounds in self.rounds.values() for one in rounds[:1]]
        return list(dict.fromkeys((load.prompt, load.streams) for r in seen for load in r.loads))

    def ratio(self, against: Candidate, prompt: Prompt, streams: int) -> float | None:
        """Tokens per second as planned, as a multiple of another's: the median over the turns.

        Of each turn the two were asked within seconds, so what slowed one slowed the other.
        """
        pairs = zip(
            self.figures("planned", prompt, streams, "tokens_per_s"),
            self.figures(against, prompt, streams, "tokens_per_s"),
            strict=False,
        )
        found = [own / other for own, other in pairs if other]
        return round(statistics.median(found), 3) if found else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bound(self) -> float:
        """Tokens per second of one stream that the memory allows: each reads all weights."""
        return round(max(self.bandwidth.one, self.bandwidth.all) * 1e9 / self.weights_bytes, 1)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def start_ratio(self) -> float | None:
        """Seconds of a start with warm caches as planned, as a share of the defaults'."""
        own, other = self.start("planned", first=False), self.start("defaults", first=False)
        return round(own / other, 3) if own and other else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdicts(self) -> list[Verdict]:
        """The ratios that have targets."""
        found: list[Verdict] = []

        def add(name: str, value: float | None, bound: Bound, target: float) -> None:
            if value is not None:
                found.append(Verdict(name=name, value=value, bound=bound, target=target))

        for prompt, streams in self.loads:
            name = f"{prompt} prompts, {streams} at a time"
            fast = streams in FASTER_AT and prompt == "short"
            against = self.ratio("defaults", prompt, streams)
            add(f"{name}, ÷ defaults", against, "≥", FASTER if fast else 1.0)
            if streams == LEVEL_WITH_LLAMA_AT and prompt == "short":
                add(f"{name}, ÷ llama.cpp", self.ratio("llama.cpp", prompt, streams), "≥", 1.0)
        add("second start, ÷ defaults", self.start_ratio, "≤", STARTS_IN)
        return found

    @property
    def met(self) -> bool:
        """Whether every ratio is within its target."""
        return all(verdict.met for verdict in self.verdicts)
