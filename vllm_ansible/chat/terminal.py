"""The chat on a terminal: reads lines, prints answers as they come."""

from __future__ import annotations

import contextlib
import sys
import unicodedata
from types import ModuleType

from rich.console import Console

from vllm_ansible.chat.commands import Commands, QuitError, speed
from vllm_ansible.chat.errors import ChatError
from vllm_ansible.chat.session import Session

_PROMPT, _MORE = "you> ", "...> "


def printable(text: str) -> str:
    """Return text without control characters: a model must not steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


class Terminal:
    """One chat on this terminal."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.commands = Commands(session)
        self.console = Console(highlight=False, soft_wrap=True)

    def run(self) -> None:
        """Chat until /quit or Ctrl-D."""
        _edit_lines(self.commands.names())
        self._say(f"{self.session.model} at {self.session.client.url}; /help lists the commands")
        while True:
            try:
                line = read_line()
                if line.startswith("/"):
                    self._say(self.commands.run(line))
                elif line.strip():
                    self._ask(line)
            except KeyboardInterrupt:
                # At the prompt it drops the line, as in a shell.
                self.console.print()
            except (EOFError, QuitError):
                self.console.print()
                return
            except ChatError as error:
                self.console.print(printable(str(error)), style="red", markup=False)

    def _ask(self, question: str) -> None:
        turn = self.session.ask(question, self._show, self._notice)
        self.console.print()
        self._say(speed(turn))

    def _show(self, piece: str) -> None:
        sys.stdout.write(printable(piece))
        sys.stdout.flush()

    def _notice(self, text: str) -> None:
        self.console.print()
        self.console.print(text, style="yellow", markup=False, end="")

    def _say(self, text: str) -> None:
        self.console.print(printable(text), style="dim", markup=False)


def read_line() -> str:
    """Return what a person types; a backslash at the end of a line goes on with the next."""
    line = input(_PROMPT)
    while line.endswith("\\"):
        line = line[:-1] + "\n" + input(_MORE)
    # What is no UTF-8 comes as lone surrogates, which no request can carry.
    return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _edit_lines(names: list[str]) -> None:
    """Let lines be edited and recalled, and commands be completed, where Python can."""
    readline: ModuleType | None = None
    with contextlib.suppress(ImportError):
        import readline  # noqa: PLC0415  # importing it is what makes input() edit lines
    if readline is None:
        return

    def complete(text: str, state: int) -> str | None:
        found = [name for name in names if text and name.startswith(text)]
        return found[state] if state < len(found) else None

    readline.set_completer_delims(" \t\n")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
