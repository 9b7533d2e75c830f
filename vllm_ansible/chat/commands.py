"""What can be said to the chat itself: lines that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vllm_ansible.chat.client import Sampling
from vllm_ansible.chat.errors import ChatError
from vllm_ansible.chat.session import Session, Turn


class QuitError(Exception):
    """The chat is to end."""


class Commands:
    """The commands of a session. Each takes the rest of its line and returns what to print."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._known: dict[str, Callable[[str], str]] = {
            "/help": self._help,
            "/model": self._model,
            "/system": self._system,
            "/set": self._set,
            "/reset": self._reset,
            "/save": self._save,
            "/stats": self._stats,
            "/quit": self._quit,
        }

    def run(self, line: str) -> str:
        """Carry out a line and return what to print.

        Raises:
            ChatError: There is no such command, or it cannot be done.
            QuitError: On /quit.
        """
        word, _, rest = line.strip().partition(" ")
        if word not in self._known:
            raise ChatError(f"There is no command {word}: /help lists them.")
        return self._known[word](rest.strip())

    def names(self) -> list[str]:
        """Return the commands' names, for completion."""
        return list(self._known)

    def _help(self, _rest: str) -> str:
        """/help: these lines."""
        lines = [(one.__doc__ or "").strip().rstrip(".") for one in self._known.values()]
        keys = (
            "Ctrl-C stops an answer and keeps the chat, Ctrl-D ends it; \\ at a line's end goes on"
        )
        return "\n".join([*lines, keys])

    def _model(self, rest: str) -> str:
        """/model [NAME or NUMBER]: list the served models, or ask another from now on."""
        names = self.session.client.models()
        if rest:
            number = int(rest) if rest.isascii() and rest.isdigit() else 0
            chosen = names[number - 1] if 1 <= number <= len(names) else rest
            if chosen not in names:
                raise ChatError(f"{rest} is not served; served are {', '.join(names)}.")
            self.session.model = chosen
        marks = {self.session.model: "*"}
        return "\n".join(
            f"{marks.get(name, ' ')} {number} {name}" for number, name in enumerate(names, 1)
        )

    def _system(self, rest: str) -> str:
        """/system [TEXT or -]: show the system prompt, set it, or take it away."""
        if rest:
            self.session.system = None if rest == "-" else rest
        return f"system prompt: {self.session.system or 'none'}"

    def _set(self, rest: str) -> str:
        """/set [NAME [VALUE]]: show the sampling parameters, set one, or leave it to the server."""
        name, _, value = rest.partition(" ")
        if name:
            kept = {key: one for key, one in self.session.sampling.body().items() if key != name}
            # Without a value it is named all the same, so that a misspelt name is refused.
            self.session.sampling = Sampling.of(**kept, **{name: value.strip() or None})
        values = self.session.sampling.model_dump()
        return "\n".join(
            f"{key} {'left to the server' if one is None else one}" for key, one in values.items()
        )

    def _reset(self, _rest: str) -> str:
        """/reset: forget the conversation; model, system prompt and parameters stay."""
        self.session.reset()
        return "a new conversation"

    def _save(self, rest: str) -> str:
        """/save FILE: write the conversation: as JSON into FILE.json, else Markdown."""
        if not rest:
            raise ChatError("Say where: /save FILE")
        self.session.save(Path(rest))
        return f"written to {rest}"

    def _stats(self, _rest: str) -> str:
        """/stats: turns, tokens and speed so far."""
        answers = [turn.answer for turn in self.session.turns]
        rates = [one.tokens_per_second for one in answers if one.tokens_per_second]
        mean = f", {sum(rates) / len(rates):.1f} tokens/s on average" if rates else ""
        left = f" ({self.session.left_out} left out)" if self.session.left_out else ""
        asked = sum(one.prompt_tokens or 0 for one in answers)
        said = sum(one.tokens for one in answers)
        return f"{len(answers)} turns{left}, {asked} tokens asked, {said} answered{mean}"

    def _quit(self, _rest: str) -> str:
        """/quit: end the chat."""
        raise QuitError


def speed(turn: Turn) -> str:
    """Return how an answer came, in one line."""
    answer = turn.answer
    parts = ["stopped" if turn.stopped else ""]
    if answer.finish_reason == "length":
        parts.append("cut at max_tokens or the model's length")
    parts.append(f"{answer.tokens} tokens")
    if answer.tokens_per_second:
        parts.append(f"{answer.tokens_per_second:.1f} tokens/s")
    if answer.first_token_seconds is not None:
        parts.append(f"first after {answer.first_token_seconds:.2f} s")
    return ", ".join(part for part in parts if part)
