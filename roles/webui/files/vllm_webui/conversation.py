"""What has been said: from the page's list of messages to the API's."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_webui.errors import ChatError

# A message of the page itself (an error), which no model is told.
NOTICE = "notice"
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


def notice(text: str) -> dict[str, Any]:
    """Return a message of the page itself."""
    return {"role": "assistant", "content": text, "metadata": {"id": NOTICE}}


def is_notice(message: Mapping[str, Any]) -> bool:
    """Tell whether a message is the page's own."""
    return (message.get("metadata") or {}).get("id") == NOTICE


def asked(text: str, files: Iterable[str]) -> list[dict[str, Any]]:
    """Return the messages of a question: its images, then its words."""
    shown = [{"role": "user", "content": {"path": file}} for file in files]
    return [*shown, *([{"role": "user", "content": text}] if text else [])]


def without_last_answer(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the conversation up to the last question, to ask it again."""
    kept = [dict(one) for one in history]
    while kept and kept[-1]["role"] != "user":
        kept.pop()
    return kept


def to_api(
    history: Sequence[Mapping[str, Any]], system_prompt: str, folder: Path
) -> list[dict[str, Any]]:
    """Return the messages that a model is sent.

    A question that got a notice instead of an answer is left out: many models' templates want
    questions and answers in turns.

    Args:
        history: The page's messages, the last of them the question.
        system_prompt: What the conversation begins with, if anything.
        folder: The only folder whose files may be sent.

    Raises:
        ChatError: A file is no image.
    """
    turns: list[tuple[str, list[dict[str, Any]]]] = []
    for message in history:
        if is_notice(message):
            if turns and turns[-1][0] == "user":
                turns.pop()
            continue
        parts = _parts(message.get("content"), folder)
        if turns and turns[-1][0] == message["role"]:
            turns[-1] = (turns[-1][0], turns[-1][1] + parts)
        elif parts:
            turns.append((str(message["role"]), parts))
    messages = [{"role": role, "content": _content(parts)} for role, parts in turns]
    prompt = system_prompt.strip()
    return [*([{"role": "system", "content": prompt}] if prompt else []), *messages]


def _parts(content: Any, folder: Path) -> list[dict[str, Any]]:
    """The parts of a message's content, in whichever of the page's forms it has."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if isinstance(content, (list, tuple)):
        return [part for one in content for part in _parts(one, folder)]
    if not isinstance(content, Mapping):
        return []
    if content.get("type") == "text":
        return _parts(str(content.get("text") or ""), folder)
    inner = content.get("file")
    path = content.get("path") or (inner.get("path") if isinstance(inner, Mapping) else None)
    return [_image(Path(str(path)), folder)] if path else []


def _content(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Plain text where there is nothing else: models without images take no list of parts."""
    if all(part["type"] == "text" for part in parts):
        return "\n\n".join(part["text"] for part in parts)
    return parts


def _image(path: Path, folder: Path) -> dict[str, Any]:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ChatError("image", path.name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ChatError("image", path.name) from error
    kind = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)
    if kind is None:
        raise ChatError("image", path.name)
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
