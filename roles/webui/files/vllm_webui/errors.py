"""What can go wrong between the page and a server, by kinds that a sentence is made of."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

Kind = Literal[
    "broken",
    "busy",
    "down",
    "failed",
    "image",
    "key",
    "no_api",
    "no_models",
    "refused",
    "silent",
    "starting",
    "too_long",
    "unknown_model",
]
# vLLM has worded it in several ways over its versions.
_TOO_LONG = re.compile(r"context length|maximum model length|max_model_len", re.IGNORECASE)
_BY_STATUS: dict[int, Kind] = {
    401: "key",
    403: "key",
    404: "unknown_model",
    429: "busy",
    502: "starting",
    503: "starting",
    504: "silent",
}
_SHOWN = 300


class ChatError(Exception):
    """Something a person is told of.

    Attributes:
        kind: What it is.
        detail: What the server said of it.
        where: The API that was asked.
    """

    def __init__(self, kind: Kind, detail: str = "", where: str = "") -> None:
        self.kind: Kind = kind
        self.detail = detail
        self.where = where
        super().__init__(f"{kind} {where}: {detail}")


def refused(status: int, body: bytes, where: str) -> ChatError:
    """Return the error that a server's refusal means.

    Args:
        status: HTTP status, 400 or more.
        body: The answer's body.
        where: The API that was asked.
    """
    said = said_in(body)
    if status in (400, 413) and _TOO_LONG.search(said):
        return ChatError("too_long", said, where)
    kind: Kind = "failed" if status >= 500 else "refused"  # noqa: PLR2004
    return ChatError(_BY_STATUS.get(status, kind), said, where)


def said_in(body: bytes) -> str:
    """Return what an error's body says: in the API's form, in FastAPI's, or as it is."""
    text = body.decode("utf-8", "replace").strip()
    try:
        content: Any = json.loads(text)
    except ValueError:
        # A proxy's page says the same in its title.
        title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        return (title[1] if title else text)[:_SHOWN]
    if isinstance(content, dict):
        inner = content.get("error", content)
        if isinstance(inner, dict):
            inner = inner.get("message") or inner.get("detail")
        text = str(inner or text)
    return text[:_SHOWN]
