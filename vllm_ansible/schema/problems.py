"""Errors of an inventory, as a person can act on them: host, variable, given, allowed."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic_core import ErrorDetails

NOTHING = object()
_PASSWORD = re.compile(r"(?P<scheme>[a-z+]+://)[^/\s@]*@", re.IGNORECASE)
_LONGEST = 80
_PATTERNS = {
    r"^[0-9a-f]{64}$": "a sha256: 64 characters of 0-9 a-f",
    r"^[0-9a-f]{40}$": "a commit: 40 characters of 0-9 a-f (a branch or a tag can move)",
    r"^(https?|git|ssh|file)://[^\s]+$": "a URL with https://, http://, git://, ssh:// or file://",
    r"^3\.\d{1,2}$": 'a Python version in quotes, such as "3.10"',
    r"^/[A-Za-z0-9._/-]+$": "a route such as /v1/models",
    r"^/[A-Za-z0-9._-][A-Za-z0-9._/-]*$": "an absolute path on the host, such as /srv/images",
}


@dataclass(frozen=True, order=True)
class Problem:
    """One error of one host's words; `given` never holds a secret."""

    host: str
    variable: str
    given: str
    allowed: str

    def __str__(self) -> str:
        said = f"given {self.given}; " if self.given else ""
        where = f"{self.host}: " if self.host else ""
        return f"{where}{self.variable}: {said}allowed {self.allowed}"


def masked(text: str) -> str:
    """The text with user and password taken out of every URL in it."""
    return _PASSWORD.sub(r"\g<scheme>***@", text)


def shown(value: Any) -> str:
    """A value as a message shows it: short, without passwords."""
    if value is NOTHING:
        return "nothing"
    text = masked(repr(value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


def suggestion(given: str, known: Iterable[str]) -> str:
    """A did-you-mean and the list of what is known."""
    names = sorted(known)
    given = given.lower()
    # A name begun and not ended is meant more often than another, shorter one.
    begun = sorted(name for name in names if given and name.startswith(given))
    close = begun[:1] or difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}known: {', '.join(names)}"


def dotted(path: Sequence[str | int]) -> str:
    """A path such as `vllm_instances[1].port`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def value_at(value: Any, path: Sequence[str | int]) -> Any:
    """What stands at a path, or `NOTHING`."""
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return NOTHING
    return value


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def known_fields(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The fields that the structure at a path has."""
    for part in path:
        if part in model.model_fields:
            inner = _models_in(model.model_fields[str(part)].annotation)
            if inner:
                model = inner[0]
    return list(model.model_fields)


def allowed_by(error: ErrorDetails, model: type[BaseModel]) -> str:
    """What would have been right, in words."""
    context = error.get("ctx", {})
    kind = error["type"]
    if kind == "extra_forbidden":
        *parents, name = error["loc"]
        return f"no such variable, {suggestion(str(name), known_fields(model, parents))}"
    if kind == "word":
        return str(context["allowed"])
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "missing":
        return "a value: it has no default"
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return _PATTERNS.get(pattern, f"text that matches {pattern}")
    return re.sub(r"^(Input should be|Value should have|List should have) ?", "", error["msg"])
