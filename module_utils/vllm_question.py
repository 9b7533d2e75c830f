"""One question to a served model, through the door that users use, without a client's library."""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_urls import tls_context

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MAX_TOKENS = 16


def ask_instance(
    instance: dict[str, Any], *, question: str, key_file: Path, timeout: float
) -> dict[str, Any]:
    """Ask an instance one thing and return what it answered, as the module C(openai_probe) does.

    Args:
        instance: C(name), C(url), C(served_names) and C(kind), as a receipt keeps them.
        question: what is asked.
        key_file: the door's key; none is sent where the file is not there.
        timeout: seconds without an answer.

    Raises:
        HostError: it was not answered as it must be; the key is not in the message.
    """
    model, base = instance["served_names"][0], f"{instance['url']}/v1"
    embeds = instance["kind"] == "embedding"
    body: dict[str, Any] = {"model": model, "input": question}
    if not embeds:
        talk = [{"role": "user", "content": question}]
        body = {"model": model, "messages": talk, "max_tokens": MAX_TOKENS, "temperature": 0}
    began = time.monotonic()
    route = "embeddings" if embeds else "chat/completions"
    answer = post(f"{base}/{route}", body, key_file, timeout)
    try:
        text = vector(answer) if embeds else said(answer)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise HostError(f"{base}: {model} answered what is no answer: {error!r}") from error
    if not text:
        raise HostError(f"{base}: {model} answered nothing")
    spent = round(time.monotonic() - began, 3)
    return {
        "name": instance["name"],
        "base_url": base,
        "model": model,
        "question": question,
        "answer": text,
        "seconds": spent,
    }


def post(url: str, body: dict[str, Any], key_file: Path, timeout: float) -> Any:
    """Send a question and return the answer's JSON.

    Raises:
        HostError: there was no answer, or one that says it failed.
    """
    headers = {"Content-Type": "application/json"}
    try:
        if key_file.is_file():
            headers["Authorization"] = f"Bearer {key_file.read_text('utf-8').strip()}"
        data = json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers)  # noqa: S310 - the plan's URL
        handlers: list[Any] = [urllib.request.HTTPSHandler(context=tls_context())]
        # A proxy of the environment is never the way to this very host.
        if urlsplit(url).hostname in LOOPBACK:
            handlers.append(urllib.request.ProxyHandler({}))
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as stream:
            return json.loads(stream.read())
    except urllib.error.HTTPError as error:
        raise HostError(f"{url}: a question was answered with status {error.code}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise HostError(f"{url}: a question was not answered: {reason}") from error


def said(answer: Any) -> str:
    """Return the words of a chat's answer; a thinking model's thoughts count."""
    message = answer["choices"][0]["message"]
    fields = ("content", "reasoning_content", "reasoning")
    return next((str(message[name]).strip() for name in fields if message.get(name)), "")


def vector(answer: Any) -> str:
    """Return what the vector is, in words; nothing where it says nothing."""
    numbers = [float(number) for number in answer["data"][0]["embedding"]]
    if not all(math.isfinite(number) for number in numbers) or not any(numbers):
        return ""
    return f"a vector of {len(numbers)} numbers"
