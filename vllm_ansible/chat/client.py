"""The client of an OpenAI-compatible API: which models, and answers as they are made."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vllm_ansible.chat.errors import ChatError, refused

_CONNECT_SECONDS = 10.0


class Sampling(BaseModel):
    """How answers are chosen; what is None is left to the server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Return these parameters.

        Raises:
            ChatError: A value is out of its range, or there is no such parameter.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                known = ", ".join(cls.model_fields)
                raise ChatError(f"There is no parameter {name}; there are {known}.") from error
            raise ChatError(f"{name} {first['input']}: {first['msg']}.") from error

    def body(self) -> dict[str, Any]:
        """Return what a request says of it."""
        return self.model_dump(exclude_none=True)


@dataclass
class Answer:
    """An answer, filled while it comes. Seconds are counted from the request."""

    model: str
    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    tokens: int = 0
    first_token_seconds: float | None = None
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Rate after the first token; None where there was only one."""
        after = self.tokens - 1
        spent = self.seconds - (self.first_token_seconds or 0)
        return after / spent if after > 0 and spent > 0 else None


@dataclass
class Client:
    """A server's API.

    Attributes:
        url: Base URL, with or without /v1.
        key: API key, if there is one.
        key_source: Where it came from, in words; for messages.
        timeout: Seconds of silence after which the server counts as dead. On a slow processor the
            first token of a long question takes minutes.
    """

    url: str
    key: str | None = None
    key_source: str = "none was given"
    timeout: float = 1800.0
    _http: httpx.Client = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/").removesuffix("/v1") + "/v1"
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Timeout(self.timeout, connect=_CONNECT_SECONDS)
        self._http = httpx.Client(headers=headers, timeout=limits)

    def models(self) -> list[str]:
        """Return the names of the served models.

        Raises:
            ChatError: There is no such server, or it refuses.
        """
        with self._spoken():
            response = self._http.get(f"{self.url}/models", timeout=_CONNECT_SECONDS)
            self._accepted(response)
        try:
            names = [str(one["id"]) for one in response.json()["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ChatError(f"What answers at {self.url} is no OpenAI-compatible API.") from error
        if not names:
            raise ChatError(f"The server at {self.url} serves no model.")
        return names

    def stream(
        self, answer: Answer, messages: Sequence[dict[str, str]], sampling: Sampling
    ) -> Generator[str, None, None]:
        """Ask and yield the pieces of the answer; closing it stops the engine's work too.

        Args:
            answer: Filled as the pieces come; its model is asked.
            messages: The conversation, as the API wants it.
            sampling: How to answer.

        Raises:
            ContextTooLongError: The conversation does not fit the model.
            ChatError: The server refuses, or breaks off.
        """
        body = {"model": answer.model, "messages": list(messages), **sampling.body()}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        begun = time.monotonic()
        with (
            self._spoken(),
            self._http.stream("POST", f"{self.url}/chat/completions", json=body) as response,
        ):
            self._accepted(response)
            for event in _events(response):
                answer.seconds = time.monotonic() - begun
                if "error" in event:
                    content = json.dumps(event).encode()
                    raise refused(500, content, {}, self.url, self.key_source)
                piece = _take(event, answer)
                if piece:
                    yield piece
        if answer.finish_reason is None:
            raise ChatError("The server broke off in the middle of its answer.")

    def _accepted(self, response: httpx.Response) -> None:
        if response.is_error:
            content = response.read()
            code, headers = response.status_code, response.headers
            raise refused(code, content, headers, self.url, self.key_source)

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        """Turn what fails on the way into sentences."""
        try:
            yield
        except httpx.ConnectError as error:
            raise ChatError(
                f"Nobody answers at {self.url} ({error}). Is the address right, and on the "
                "server: `systemctl status nginx 'vllm@*'`?"
            ) from error
        except httpx.TimeoutException as error:
            raise ChatError(f"The server at {self.url} has been silent for too long.") from error
        except httpx.RemoteProtocolError as error:
            raise ChatError("The server broke off in the middle of its answer.") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ChatError(f"{self.url} cannot be asked: {error}") from error


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream.

    Lines end with a newline and with nothing else: an answer may hold U+2028 and its like, at
    which httpx's own iter_lines would cut it.
    """
    rest = b""
    for data in response.iter_bytes():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            content = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and content != b"[DONE]":
                try:
                    event = json.loads(content)
                except ValueError as error:
                    raise ChatError("The server sent what is no JSON.") from error
                yield event


def _take(event: dict[str, Any], answer: Answer) -> str:
    """Note what an event says in the answer, and return its text."""
    piece = ""
    for choice in event.get("choices") or []:
        piece += (choice.get("delta") or {}).get("content") or ""
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
    if piece:
        answer.text += piece
        # One piece is one token, until the server gives its count at the end.
        answer.tokens += 1
        if answer.first_token_seconds is None:
            answer.first_token_seconds = answer.seconds
    usage = event.get("usage")
    if usage:
        answer.prompt_tokens = usage.get("prompt_tokens")
        answer.tokens = usage.get("completion_tokens", answer.tokens)
    return piece
