"""What can go wrong between a person and a server, as sentences with a way out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# vLLM has worded it in several ways since 0.5.
_TOO_LONG = re.compile(r"context length|maximum model length|max_model_len", re.IGNORECASE)
# What the door says of a route that its instance does not have, and what an engine says.
_NO_ROUTE = re.compile(r"^(This route is not served here|Not Found)$", re.IGNORECASE)
_SHOWN = 300


class ChatError(Exception):
    """Something a person can act on."""


class ContextTooLongError(ChatError):
    """The conversation and the answer asked for do not fit the model's context."""


def refused(
    status: int, body: bytes, headers: Mapping[str, str], url: str, key_source: str
) -> ChatError:
    """Return the error that a server's refusal means.

    Args:
        status: HTTP status, 400 or more.
        body: The answer's body.
        headers: The answer's headers.
        url: The API's base URL.
        key_source: Where the key came from, in words.
    """
    said = message_of(body)
    if status == 404 and _NO_ROUTE.search(said):  # noqa: PLR2004
        return ChatError(
            f"The server at {url} has no chat at this address. A model that makes vectors is asked "
            "by scripts/examples/openai_embeddings.py; another instance of the host has another "
            "port (--instance NAME)."
        )
    if status == 400 and _TOO_LONG.search(said):  # noqa: PLR2004
        return ContextTooLongError(said)
    after = headers.get("Retry-After", "")
    wait = f"try again in {after} s" if after.isdigit() else "try again in a minute"
    sentences = {
        400: f"The server does not take the request: {said}",
        401: f"The server at {url} refuses the key ({key_source}). Its key is in "
        "/etc/vllm/api_key on the server, for root to read: give it with --api-key-file FILE "
        "or in VLLM_API_KEY.",
        404: f"Not found at {url}: {said}",
        503: f"The engine behind {url} is starting or has stopped: {wait}, or look at "
        "`systemctl status 'vllm@*'` on the server.",
    }
    return ChatError(sentences.get(status, f"The server failed with status {status}: {said}"))


def message_of(body: bytes) -> str:
    """Return what an error's body says: in the API's form, in FastAPI's, or as it is."""
    text = body.decode("utf-8", "replace").strip()
    try:
        content: Any = json.loads(text)
    except ValueError:
        # A proxy's page: its title says enough.
        title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        text = title[1] if title else text
    else:
        if isinstance(content, dict):
            error = content.get("error")
            inner = error.get("message") if isinstance(error, dict) else error
            text = str(inner or content.get("message") or content.get("detail") or text)
    return text[:_SHOWN] or "no reason given"
