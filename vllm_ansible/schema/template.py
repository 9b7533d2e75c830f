"""Chat templates: files of the controller, read and tried before any host is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2.parser import Parser

# Bytes. The longest template seen in a model's own files has some 10,000.
LONGEST = 100_000


class TemplateError(Exception):
    """A file that is no chat template; the message says why, for a person."""


class _Generation(Extension):
    """The tag around what the model said, which templates for training carry."""

    tags: set[str] = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """Takes the tag and what it encloses."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def read_template(path: Path) -> str:
    """The text of a chat template.

    Args:
        path: The file on the controller.

    Raises:
        TemplateError: It cannot be read, is too long, or is not valid Jinja2.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TemplateError(error.strerror or "cannot be read") from error
    if len(content) > LONGEST:
        raise TemplateError(f"{len(content)} bytes, the most is {LONGEST}")
    try:
        text = content.decode("utf-8")
        _ENVIRONMENT.parse(text)
    except UnicodeDecodeError as error:
        raise TemplateError("not text in UTF-8") from error
    except TemplateSyntaxError as error:
        raise TemplateError(f"line {error.lineno}: {error.message}") from error
    if not text.strip():
        raise TemplateError("empty")
    return text


# As transformers reads a chat template. It is parsed here and never rendered.
_ENVIRONMENT = Environment(
    autoescape=True, extensions=["jinja2.ext.loopcontrols", _Generation], trim_blocks=True
)
