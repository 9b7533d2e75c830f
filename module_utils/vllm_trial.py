"""Start an engine on a private socket, measure how it starts and answers, and stop it."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_raised import raised

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

# About one token each in most vocabularies; what they mean is of no matter.
WORDS = [
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world",
    "school", "state", "family", "student", "group", "country", "problem", "hand", "part",
    "place", "case", "week", "company", "system", "program", "question", "work", "government",
    "number", "night", "point", "home", "water", "room", "mother", "area", "money", "story",
    "fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business",
    "issue", "side", "kind", "head", "house", "service", "friend", "father", "power", "hour",
    "game", "line",
]  # fmt: skip
PAUSE = 0.1  # seconds between two looks
LINES = 20  # of what an engine said last are told
STOPPED_WITHIN = 30  # seconds; an engine that is still there then is killed
MIB = 2**20


class Cell(NamedTuple):
    """One load: words of each prompt, requests at a time, new tokens of each."""

    words: int
    streams: int
    tokens: int


class Figures(NamedTuple):
    """What a load measured.

    Attributes:
        tokens_per_s: New tokens of all requests by the seconds until the last one ended.
        first_ms: Milliseconds to a request's first token, the median.
        each_ms: Milliseconds for each further token, the median.
    """

    tokens_per_s: float
    first_ms: float
    each_ms: float


class _Answer(NamedTuple):
    first: float
    whole: float
    tokens: int


class Engine:
    """A server of the OpenAI API that listens on a Unix socket, for as long as a block lasts.

    Args:
        argv: The program and its arguments.
        environment: All of its variables.
        path: The socket that it will make.
        log: A file for what it says.
        timeout: Seconds that it may take until it is ready.
        user: Who runs it, as `pwd` names him; None for who runs this.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        path: Path,
        log: Path,
        timeout: float,
        user: str | None = None,
    ) -> None:
        self._argv, self._environment, self.path = list(argv), dict(environment), path
        self._log, self._timeout, self._user = log, timeout, user
        self._process: subprocess.Popen[bytes] | None = None
        self.seconds = 0.0

    def __enter__(self) -> Self:
        """Start it and wait until it is ready; `seconds` says how long that took.

        Raises:
            HostError: it ended, or was not ready in time; with the last lines that it said.
        """
        self.path.unlink(missing_ok=True)
        who: dict[str, Any] = {"user": self._user, "group": self._user, "extra_groups": []}
        begun = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._argv,
                env=self._environment,
                cwd=self._log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **(who if self._user else {}),
            )
        try:
            while not self._healthy():
                self._require_life(time.monotonic() - begun)
                time.sleep(PAUSE)
        except BaseException:
            self._stop()
            raise
        self.seconds = time.monotonic() - begun
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it with all that it started."""
        self._stop()

    def pause(self) -> None:
        """Have it take no processor until `resume`: one that idles goes on looking for work."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def memory_mib(self) -> int:
        """Return the MiB that its processes take, shared pages counted once."""
        return sum(_pss(pid) for pid in self._processes()) // MIB

    def _healthy(self) -> bool:
        link = _Connection(self.path)
        try:
            link.request("GET", "/health")
            return link.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            link.close()

    def _require_life(self, waited: float) -> None:
        status = self._process.poll() if self._process else None
        if status is None and waited < self._timeout:
            return
        what = f"ended with status {status}" if status is not None else "is not ready"
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        why = "".join(f": {error}" for error in raised(lines)[-1:])
        said = "\n".join(lines[-LINES:])
        raise HostError(f"{self._argv[0]} {what} after {waited:.0f} s{why}\nIt said last:\n{said}")

    def _stop(self) -> None:
        """Ask its parent to end, as systemd does, then kill what is left of its session."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
        self.resume()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOPPED_WITHIN)
        self._signal(signal.SIGKILL)
        process.wait()

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _processes(self) -> list[int]:
        return _session(self._process.pid) if self._process else []


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def load(path: Path, model: str, cell: Cell, seed: str) -> Figures:
    """Ask for completions, all streams at a time, and return what that took.

    Prompts differ in their first word on, so that nothing kept from one helps another; the same
    seed gives the same prompts, so that every engine is asked the same.

    Args:
        path: The engine's socket.
        model: The name that it serves.
        cell: How much of what.
        seed: Of the prompts.

    Raises:
        HostError: it does not answer as it should.
    """
    prompts = [_prompt(cell.words, f"{seed} {number}") for number in range(cell.streams)]

    async def ask_all() -> list[_Answer]:
        asked = (_ask(path, model, prompt, cell.tokens) for prompt in prompts)
        return list(await asyncio.gather(*asked))

    begun = time.monotonic()
    try:
        answers = asyncio.run(ask_all())
    except OSError as error:
        raise HostError(f"the engine at {path} does not answer: {error}") from error
    seconds = time.monotonic() - begun
    return Figures(
        sum(one.tokens for one in answers) / seconds,
        1000 * statistics.median(one.first for one in answers),
        1000 * statistics.median((a.whole - a.first) / max(a.tokens - 1, 1) for a in answers),
    )


def _prompt(words: int, seed: str) -> str:
    chosen = random.Random(seed)  # noqa: S311  # the same prompts for all, no secret
    return " ".join(chosen.choice(WORDS) for _ in range(words))


async def _ask(path: Path, model: str, prompt: str, tokens: int) -> _Answer:
    """Ask for one completion. By hand and not with a client: it shares the engine's cores."""
    body = json.dumps(
        {
            "model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0,
            "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
        }
    ).encode()  # fmt: skip
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    begun = time.monotonic()
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(head.encode() + body)
    first, last = None, b""
    while data := await reader.read(65536):
        if first is None and b"data:" in data:
            first = time.monotonic() - begun
        last = (last + data)[-4096:]
    writer.close()
    found = last.rpartition(b'"completion_tokens":')[2].split(b",")[0].split(b"}")[0]
    if first is None or not found.strip().isdigit():
        raise HostError(f"the engine's answer is not understood: {last[-400:]!r}")
    return _Answer(first, time.monotonic() - begun, int(found))


def _session(leader: int) -> list[int]:
    """Return the processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The program's name, in parentheses, may hold anything; the session is the 4th after.
            fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def _pss(pid: int) -> int:
    """Return the bytes of a process's memory, its share of what it shares."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    except OSError:
        return 0
    kib = [line.split()[1] for line in text.splitlines() if line.startswith("Pss:")]
    return 1024 * int(kib[0]) if kib else 0
