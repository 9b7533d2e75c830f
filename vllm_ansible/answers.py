"""What the instances of a run answered, gathered from the results of its tasks.

Ansible's output and the results of `provision` both read them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

# A service that answers sooner than this was running before (seconds).
_STARTED = 1.0


class Answer(BaseModel):
    """What a served model answered through the door that users use.

    Attributes:
        instance: Name of the instance.
        url: Base URL of its OpenAI-compatible API.
        model: Served name that was asked.
        question: The question put to it.
        answer: Its answer.
        ready_seconds: Seconds from the start of the unit to its first answer on /health;
            None when it was running already.
        tokens_per_second: Speed of the streamed answer, after its first token; 0 of vectors and
            where nothing had changed, so that one short answer was all that was asked for.
        time_to_first_token: Seconds to the first token of the streamed answer; 0 as above.
    """

    model_config = ConfigDict(extra="forbid")

    instance: str
    url: str
    model: str
    question: str
    answer: str
    ready_seconds: float | None = None
    tokens_per_second: float
    time_to_first_token: float

    @property
    def ready(self) -> str:
        """When it was ready, in words."""
        return "was running" if self.ready_seconds is None else f"after {self.ready_seconds:.0f} s"

    @property
    def speed(self) -> str:
        """How fast it answered, in words."""
        if not self.time_to_first_token:
            return "not measured: the answer was not a stream"
        rate = f"{self.tokens_per_second:.1f} tokens/s"
        return f"{rate}, first token after {self.time_to_first_token:.2f} s"


class Answers:
    """The answers of a run, by host and instance."""

    def __init__(self) -> None:
        self._ready: dict[tuple[str, str], float] = {}
        self._said: dict[tuple[str, str], Answer] = {}

    def hear(self, host: str, action: str, result: Mapping[str, Any]) -> None:
        """Take what the result of a task, or of one item of its loop, says of an instance.

        Args:
            host: Inventory name of the host.
            action: Name of the task's module, with or without a namespace.
            result: The result.
        """
        module = action.rpartition(".")[2]
        if module == "instance_ready" and "seconds" in result:
            unit = str(result.get("unit", "")).removeprefix("vllm@").removesuffix(".service")
            # The longest wait counts: the stage that starts an instance waits, the last one looks.
            waited = max(self._ready.get((host, unit), 0.0), float(result["seconds"]))
            self._ready[host, unit] = waited
        elif module == "openai_probe" and "answer" in result and _at_the_door(result):
            answer = _answer(result)
            self._said[host, answer.instance] = answer
        elif module == "host_plan":
            for one in result.get("answers") or []:
                if "answer" in one:
                    self._said[host, one["name"]] = _answer({**one, "item": one})

    def by_host(self) -> list[tuple[str, Answer]]:
        """Return each answer with its host, sorted by host and instance."""
        return [
            (host, self._timed(host, self._said[host, name])) for host, name in sorted(self._said)
        ]

    def _timed(self, host: str, answer: Answer) -> Answer:
        waited = self._ready.get((host, answer.instance), 0.0)
        return answer.model_copy(update={"ready_seconds": waited if waited >= _STARTED else None})


def _at_the_door(result: Mapping[str, Any]) -> bool:
    """Whether the engine was asked as users ask it, and not at its socket, by the way."""
    return not str(result["base_url"]).startswith("/")


def _answer(result: Mapping[str, Any]) -> Answer:
    item = result.get("item") or {}
    return Answer(
        instance=str(item.get("name", result["model"])),
        url=str(result["base_url"]),
        model=str(result["model"]),
        question=str(result.get("question", "")),
        answer=str(result["answer"]),
        tokens_per_second=float(result.get("tokens_per_second") or 0),
        time_to_first_token=float(result.get("time_to_first_token") or 0),
    )
