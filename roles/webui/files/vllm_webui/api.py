"""The servers' API: which models there are, and answers as they are made."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from vllm_webui.errors import ChatError, refused
from vllm_webui.settings import Endpoint

CONNECT_S = 10.0
# On a slow processor the first token of a long question takes minutes.
SILENCE_S = 1800.0
# An answer is still being read, and a person is waiting for the list.
LIST_S = 10.0


@dataclass(frozen=True)
class Model:
    """A served model.

    Attributes:
        name: By which its server knows it.
        label: By which people choose it; with the endpoint's name where two serve the same.
        endpoint: Where it is served.
        context: Tokens of the longest question and answer together, where the server says so.
    """

    name: str
    label: str
    endpoint: Endpoint
    context: int | None = None


@dataclass
class Answer:
    """An answer, filled while it comes. Seconds are counted from the request."""

    text: str = ""
    finish: str | None = None
    tokens: int = 0
    first_s: float | None = None
    seconds: float = 0.0

    @property
    def rate(self) -> float | None:
        """Tokens per second after the first; None where there was only one."""
        spent = self.seconds - (self.first_s or 0)
        return (self.tokens - 1) / spent if self.tokens > 1 and spent > 0 else None


@dataclass
class Found:
    """The models that answer, and why others do not."""

    models: list[Model] = field(default_factory=list)
    errors: list[ChatError] = field(default_factory=list)


class Api:
    """The API of all endpoints."""

    def __init__(self, endpoints: Sequence[Endpoint], keys: Mapping[str, str]) -> None:
        self.endpoints = list(endpoints)
        self._keys = dict(keys)

    async def models(self) -> Found:
        """Ask all endpoints at once for what they serve."""
        answers = await asyncio.gather(
            *(self._listed(one) for one in self.endpoints), return_exceptions=True
        )
        found = Found()
        taken: dict[str, int] = {}
        for answer in answers:
            if isinstance(answer, ChatError):
                found.errors.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found.models += answer
        for model in found.models:
            taken[model.name] = taken.get(model.name, 0) + 1
        found.models = [
            Model(one.name, f"{one.name} ({one.endpoint.name})", one.endpoint, one.context)
            if taken[one.name] > 1
            else one
            for one in found.models
        ]
        return found

    async def _listed(self, endpoint: Endpoint) -> list[Model]:
        with _spoken(endpoint.url):
            async with self._client(endpoint, LIST_S) as client:
                response = await client.get(f"{endpoint.url}/models")
            if response.is_error:
                raise refused(response.status_code, response.content, endpoint.url)
        try:
            entries = response.json()["data"]
            models = [(str(one["id"]), one.get("max_model_len")) for one in entries]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ChatError("no_api", where=endpoint.url) from error
        if not models:
            raise ChatError("no_models", where=endpoint.url)
        return [Model(name, name, endpoint, context) for name, context in models]

    async def stream(
        self, model: Model, messages: Sequence[Mapping[str, Any]], sampling: Mapping[str, Any]
    ) -> AsyncGenerator[Answer, None]:
        """Ask, and yield the growing answer after each piece of it.

        Closing the iterator closes the connection, and with it the engine stops its work.

        Args:
            model: Who is asked.
            messages: The conversation, as the API wants it.
            sampling: Parameters of the request.

        Raises:
            ChatError: The server refuses, or breaks off.
        """
        body = {**sampling, "model": model.name, "messages": list(messages), "stream": True}
        body["stream_options"] = {"include_usage": True}
        url, answer, begun = model.endpoint.url, Answer(), time.monotonic()
        with _spoken(url):
            async with (
                self._client(model.endpoint, SILENCE_S) as client,
                client.stream("POST", f"{url}/chat/completions", json=body) as response,
            ):
                if response.is_error:
                    raise refused(response.status_code, await response.aread(), url)
                async for event in _events(response):
                    answer.seconds = time.monotonic() - begun
                    if "error" in event:
                        raise refused(500, json.dumps(event).encode(), url)
                    _take(event, answer)
                    yield answer
        if answer.finish is None:
            raise ChatError("broken", where=url)

    def _client(self, endpoint: Endpoint, silence_s: float) -> httpx.AsyncClient:
        key = self._keys.get(endpoint.credential)
        return httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(silence_s, connect=CONNECT_S),
            # A proxy of the environment has no business between the page and its servers.
            trust_env=False,
        )


@contextmanager
def _spoken(where: str) -> Iterator[None]:
    """Turn what fails on the way into errors with a kind."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ChatError("down", str(error), where) from error
    except httpx.TimeoutException as error:
        raise ChatError("silent", where=where) from error
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
        raise ChatError("broken", where=where) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ChatError("failed", str(error), where) from error


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of a stream.

    Only a newline ends a line: an answer may hold U+2028 and its like, at which httpx's own
    aiter_lines would cut it.
    """
    rest = b""
    async for data in response.aiter_bytes():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            content = line.removeprefix(b"data:").strip()
            if not line.startswith(b"data:") or content == b"[DONE]":
                continue
            try:
                event = json.loads(content)
            except ValueError as error:
                raise ChatError("no_api", where=str(response.url)) from error
            if isinstance(event, dict):
                yield event


def _take(event: Mapping[str, Any], answer: Answer) -> None:
    """Note what an event says in the answer."""
    for choice in event.get("choices") or []:
        piece = (choice.get("delta") or {}).get("content") or ""
        answer.finish = choice.get("finish_reason") or answer.finish
        if piece:
            answer.text += piece
            # One piece is one token, until the server gives its count at the end.
            answer.tokens += 1
            if answer.first_s is None:
                answer.first_s = answer.seconds
    usage = event.get("usage")
    if usage:
        answer.tokens = usage.get("completion_tokens", answer.tokens)
