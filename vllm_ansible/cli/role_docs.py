"""Generate each role's README from its argument specs, so that the page cannot lie."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import jinja2
import typer
import yaml

from vllm_ansible.paths import PROJECT

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_PAGE = """\
# {{ name }}

{{ spec.short_description }}.
{% for line in spec.description %}
{{ '- ' ~ markup(line) }}
{%- endfor %}

This page is generated from `meta/argument_specs.yml`: run `scripts/role-docs` after a change.

| variable | type | default | meaning |
|---|---|---|---|
{%- for option, words in spec.options | dictsort %}
| `{{ option }}` | {{ kind(words) }} | `{{ default(words) }}` | {{ meaning(words) }} |
{%- endfor %}
{% for option, words in spec.options | dictsort if words.options is defined %}
Each item of `{{ option }}`:

| key | type | required | meaning |
|---|---|---|---|
{%- for key, word in words.options | dictsort %}
| `{{ key }}` | {{ kind(word) }} | {{ required(word) }} | {{ meaning(word) }} |
{%- endfor %}
{% endfor -%}
"""


def markup(text: str) -> str:
    """Turn Ansible's documentation markup (C(), V(), O(), B(), I()) into Markdown."""
    text = re.sub(r"\b[CVO]\(([^)]*)\)", r"`\1`", text)
    return re.sub(r"\b[BI]\(([^)]*)\)", r"*\1*", text)


def render(role: Path) -> str:
    """Return the README of a role.

    Args:
        role: Directory of the role.

    Returns:
        The page in Markdown.

    Raises:
        FileNotFoundError: The role has no argument specs.
    """
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        autoescape=False,  # noqa: S701  # Markdown, not HTML
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.from_string(_PAGE)
    return page.render(
        name=role.name,
        spec=_filled(specs["argument_specs"]["main"]),
        markup=markup,
        kind=_kind,
        default=_default,
        meaning=_meaning,
        required=lambda words: "yes" if words.get("required") else "no",
    )


def _filled(spec: dict[str, Any]) -> dict[str, Any]:
    description = spec.get("description", [])
    lines = [description] if isinstance(description, str) else description
    return {**spec, "description": lines, "options": spec.get("options", {})}


def _kind(words: dict[str, Any]) -> str:
    elements = words.get("elements")
    kind = str(words.get("type", "str"))
    return f"{kind} of {elements}" if elements else kind


def _default(words: dict[str, Any]) -> str:
    return yaml.safe_dump(
        words.get("default"), default_flow_style=True, width=1000, explicit_end=False
    ).splitlines()[0]


def _meaning(words: dict[str, Any]) -> str:
    text = words.get("description", "")
    text = " ".join(text) if isinstance(text, list) else text
    choices = words.get("choices")
    tail = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    return markup(" ".join(str(text).split())).replace("|", "\\|") + tail


@app.command()
def main(
    check: Annotated[
        bool,
        typer.Option("--check", help="Change nothing; exit 1 when a page is out of date."),
    ] = False,
) -> None:
    """Write roles/*/README.md from each role's argument specs."""
    stale = []
    for role in sorted(path.parent.parent for path in PROJECT.glob("roles/*/meta/main.yml")):
        page, text = role / "README.md", render(role)
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            stale.append(role.name)
            if not check:
                page.write_text(text, encoding="utf-8")
    if stale:
        typer.echo(f"{'out of date' if check else 'written'}: {', '.join(stale)}")
    raise typer.Exit(1 if stale and check else 0)


if __name__ == "__main__":
    app(prog_name="role-docs")
