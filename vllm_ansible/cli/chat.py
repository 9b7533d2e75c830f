"""Command line of the chat: a conversation on a terminal, one question and its answer in a pipe."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vllm_ansible.chat.client import Answer, Client, Sampling
from vllm_ansible.chat.door import Door, from_inventory, given_key
from vllm_ansible.chat.errors import ChatError
from vllm_ansible.chat.session import Session
from vllm_ansible.chat.terminal import Terminal

_LOCAL = "http://127.0.0.1:8000/v1"
_INTERRUPTED = 130

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    url: Annotated[str | None, typer.Option(help=f"The API. [default: {_LOCAL}]")] = None,
    inventory: Annotated[
        Path | None,
        typer.Option("--inventory", "-i", help="In place of --url: the inventory says where."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="With -i: which server.")] = None,
    instance: Annotated[str | None, typer.Option(help="With -i: which of its instances.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Served name. [default: the first that is served]")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with the key. Else: VLLM_API_KEY, the inventory's.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Share of likely tokens drawn from.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Number of likely tokens drawn from.")] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1: repeats itself less.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draw the same answer again.")] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds of silence that end the waiting.")
    ] = 1800,
    as_json: Annotated[
        bool, typer.Option("--json", help="In a pipe: print the answer and its figures as JSON.")
    ] = False,
) -> None:
    """Chat with a served model.

    On a terminal: a conversation; /help lists its commands. Else the whole of standard input is
    one question, and its answer goes to standard output as it comes:

        echo 'Why is the sky blue?' | scripts/chat -i inventories/lab

    What is left out of the sampling parameters is the server's choice.
    Exit status: 0 answered, 1 no answer (the reason is on standard error), 2 wrong usage,
    130 interrupted.
    """
    if inventory is not None and url is not None:
        raise typer.BadParameter("say either --url or -i")
    if inventory is None and (host or instance):
        raise typer.BadParameter("--host and --instance go with -i")
    interactive = sys.stdin.isatty()
    if as_json and interactive:
        raise typer.BadParameter("--json wants the question on standard input")
    question = None if interactive else _question()
    try:
        sampling = Sampling.of(
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            max_tokens=max_tokens,
            seed=seed,
        )
    except ChatError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        door = _door(url, inventory, host, instance, api_key_file)
        client = Client(door.url, door.key, door.key_source, timeout)
        session = Session(client, _model(client, model or door.model), system, sampling)
        if question is None:
            Terminal(session).run()
        else:
            _answer(session, question, as_json=as_json)
    except ChatError as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print("[red]chat:[/] ", end="")
        console.print(str(error), markup=False)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None


def _question() -> str:
    """Return standard input, which is to be a question in UTF-8."""
    try:
        question = sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(
            "standard input is not UTF-8; a Chinese file may want: iconv -f GB18030 -t UTF-8"
        ) from error
    if not question:
        raise typer.BadParameter("standard input is empty: it is to be the question")
    return question


def _door(
    url: str | None,
    inventory: Path | None,
    host: str | None,
    instance: str | None,
    file: Path | None,
) -> Door:
    key, source = given_key(file)
    if inventory is None:
        return Door(url or _LOCAL, None, key, source)
    return from_inventory(inventory, host, instance, (key, source) if key else None)


def _model(client: Client, wanted: str | None) -> str:
    """Return the model to ask, which must be served."""
    names = client.models()
    if wanted is not None and wanted not in names:
        raise ChatError(f"{client.url} does not serve {wanted}; it serves {', '.join(names)}.")
    return wanted or names[0]


def _answer(session: Session, question: str, *, as_json: bool) -> None:
    """Print the answer to one question, as it comes or as JSON."""
    answer = Answer(session.model)
    asked = [*session.messages(), {"role": "user", "content": question}]
    with closing(session.client.stream(answer, asked, session.sampling)) as pieces:
        for piece in pieces:
            if not as_json:
                _write(piece)
    if as_json:
        figures = asdict(answer) | {"tokens_per_second": answer.tokens_per_second}
        content = {"url": session.client.url, "question": question, "answer": figures.pop("text")}
        content |= figures
        _write(json.dumps(content, ensure_ascii=False, indent=2))
    _write("\n")


def _write(text: str) -> None:
    """Write UTF-8, whatever the locale."""
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    app(prog_name="chat")
