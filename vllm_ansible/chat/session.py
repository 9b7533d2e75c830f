"""A conversation: its turns, what of them the model still sees, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from vllm_ansible.chat.client import Answer, Client, Sampling
from vllm_ansible.chat.errors import ChatError, ContextTooLongError


@dataclass
class Turn:
    """A question and its answer; `stopped` when a person ended it early."""

    question: str
    answer: Answer
    stopped: bool = False


@dataclass
class Session:
    """One conversation with one server, whose model may change on the way.

    Attributes:
        client: The server.
        model: The model asked.
        system: The system prompt, if there is one.
        sampling: How answers are chosen.
        turns: Everything said so far.
        left_out: How many of the oldest turns the model sees no more.
    """

    client: Client
    model: str
    system: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    turns: list[Turn] = field(default_factory=list)
    left_out: int = 0

    def messages(self, first: int = 0) -> list[dict[str, str]]:
        """Return the conversation from its turn `first` on, as the API wants it."""
        found = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns[first:]:
            found.append({"role": "user", "content": turn.question})
            found.append({"role": "assistant", "content": turn.answer.text})
        return found

    def ask(
        self, question: str, show: Callable[[str], None], notice: Callable[[str], None]
    ) -> Turn:
        """Ask, and keep the turn. Ctrl-C ends the answer and keeps what was said.

        Args:
            question: The question.
            show: Takes each piece of the answer as it comes.
            notice: Takes a sentence when the oldest turns had to be left out.

        Raises:
            ChatError: The question got no answer; the conversation is as it was.
        """
        before = self.left_out
        while True:
            answer = Answer(self.model)
            asked = [*self.messages(self.left_out), {"role": "user", "content": question}]
            stopped = False
            try:
                with closing(self.client.stream(answer, asked, self.sampling)) as pieces:
                    for piece in pieces:
                        show(piece)
            except ContextTooLongError as error:
                if self.left_out < len(self.turns):
                    self.left_out += 1
                    continue
                self.left_out = before
                raise ChatError(
                    "The question alone is too long for the model, or max_tokens too large: "
                    f"shorten it, or lower max_tokens. The server says: {error}"
                ) from error
            except ChatError:
                self.left_out = before
                raise
            except KeyboardInterrupt:
                stopped = True
            break
        if self.left_out > before:
            count = self.left_out - before
            turns = "turn was" if count == 1 else f"{count} turns were"
            notice(f"The model's context is full: the oldest {turns} left out.")
        turn = Turn(question, answer, stopped)
        if answer.text:
            self.turns.append(turn)
        return turn

    def reset(self) -> None:
        """Forget what was said; the model, the system prompt and the parameters stay."""
        self.turns.clear()
        self.left_out = 0

    def save(self, file: Path) -> None:
        """Write the conversation: the API's messages into NAME.json, else Markdown.

        Raises:
            ChatError: The file is there already, or cannot be written.
        """
        if file.suffix == ".json":
            text = json.dumps(self.messages(), ensure_ascii=False, indent=2) + "\n"
        else:
            parts = [f"**{one['role']}**\n\n{one['content']}\n" for one in self.messages()]
            text = "\n".join(parts)
        try:
            with file.expanduser().open("x", encoding="utf-8") as stream:
                stream.write(text)
        except FileExistsError as error:
            raise ChatError(f"{file} is there already; give another name.") from error
        except OSError as error:
            raise ChatError(f"{file} cannot be written: {error.strerror}") from error
