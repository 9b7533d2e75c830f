"""A stand-in for the engine: it speaks the OpenAI-compatible API and says one fixed sentence.

Asked for vectors it makes them of the letters of a text.

For tests of what stands around an engine. It runs no model, and only the lab's inventories may
use it.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import random
import socketserver
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ANSWER = "The capital of France is Paris."
HEAD = {"id": "stand-in", "created": 0}
IMAGE_TOKENS = 16
FLAWED = {"nan": [0.5, float("nan")], "nought": [0.0, 0.0], "alike": [0.6, 0.8]}


class Engine:
    """What all requests share: the options, and since when it runs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.began, self.requests = options, time.monotonic(), 0
        self.models: list[str] = options.model or ["stand-in"]
        # What was asked, and how many streamed answers their readers left before the end.
        self.bodies: list[dict[str, Any]] = []
        self.left = 0

    def vector(self, text: str) -> list[float]:
        """Return a text's vector, flawed in the way that was asked for."""
        flaw = self.options.vectors
        if flaw in FLAWED:
            return FLAWED[flaw]
        seed = None if flaw == "fickle" else text
        numbers = random.Random(seed)  # noqa: S311  # no secret is made of it
        return [numbers.gauss(0, 1) for _ in range(64)]

    def hangs(self) -> bool:
        """Tell whether questions are taken and not answered, as when vLLM's engine is stopped."""
        return self.options.hang_file is not None and self.options.hang_file.exists()

    def dead(self) -> bool:
        """Tell whether the engine has "died", after which /health is 503 as vLLM's is."""
        limit = self.options.fail_after
        ill = self.options.ill_file is not None and self.options.ill_file.exists()
        return ill or (limit is not None and self.requests >= limit)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server_version = "stand-in"
    engine: Engine

    def handle(self) -> None:
        """Whoever asks may leave before the answer's end; the journal has no use for that."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().handle()

    def address_string(self) -> str:
        return "unix" if not self.client_address else str(self.client_address[0])

    def send_json(self, status: int, content: Any, **headers: str) -> None:
        """Answer with JSON."""
        data = json.dumps(content, ensure_ascii=False).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, message: str, **headers: str) -> None:
        """Answer with an error in the API's form."""
        error = {"message": message, "type": "stand-in", "code": status}
        self.send_json(status, {"error": error}, **headers)

    def allowed(self) -> bool:
        """Tell whether the engine has started and the key is right; answer 503 or 401 when not."""
        if time.monotonic() - self.engine.began < self.engine.options.starting:
            self.refuse(503, "The engine is starting or has stopped", Retry_After="10")
            return False
        key = self.engine.options.api_key
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            self.refuse(401, "Unauthorized")
            return False
        return True

    def refused(self) -> bool:
        """Tell whether every question is refused; answer so."""
        if self.engine.options.refuse:
            self.refuse(self.engine.options.refuse, "refused as it was told to")
        return bool(self.engine.options.refuse)

    def do_GET(self) -> None:
        """Answer /health and the list of models."""
        if self.path == "/health":
            self.send_json(503 if self.engine.dead() else 200, {})
        elif self.path == "/v1/models":
            if self.allowed():
                time.sleep(self.engine.options.list_delay)
                model = {"object": "model", "created": 0, "owned_by": "vllm"}
                model["max_model_len"] = self.engine.options.max_model_len
                data = [{"id": name, **model} for name in self.engine.models]
                self.send_json(200, {"object": "list", "data": data})
        else:
            self.refuse(404, "Not Found")

    def do_POST(self) -> None:
        """Answer a completion, a chat or a request for vectors."""
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.allowed() or self.refused():
            return
        self.engine.requests += 1
        while self.engine.hangs():
            time.sleep(0.1)
        try:
            body = json.loads(data or b"{}")
        except ValueError as error:
            self.refuse(400, f"There was an error parsing the body: {error}")
            return
        self.engine.bodies.append(body)
        if self.path not in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings"):
            self.refuse(404, "Not Found")
        elif self.engine.dead():
            self.refuse(500, "the engine is dead")
        elif body.get("model") not in self.engine.models:
            self.refuse(404, f"The model `{body.get('model')}` does not exist.")
        elif (body.get("temperature") or 0) < 0:
            self.refuse(400, f"temperature must be non-negative, got {body['temperature']}.")
        elif prompt_tokens(body) >= self.engine.options.max_model_len:
            length, given = self.engine.options.max_model_len, prompt_tokens(body)
            self.refuse(
                400,
                f"This model's maximum context length is {length} tokens. However, your request "
                f"has {given} input tokens. Please reduce the length of the input messages.",
            )
        else:
            self.answer(body)

    def answer(self, body: dict[str, Any]) -> None:
        """Answer what can be answered, in the way that was asked for."""
        if self.path == "/v1/embeddings":
            self.vectors(body)
        elif body.get("stream"):
            try:
                self.stream(body)
            except (BrokenPipeError, ConnectionResetError):
                self.engine.left += 1
        else:
            self.whole(body)

    def usage(self, body: dict[str, Any]) -> dict[str, int]:
        """Count words as tokens."""
        asked, said = prompt_tokens(body), len(self.engine.options.answer.split())
        if not self.engine.options.blind:
            asked += IMAGE_TOKENS * json.dumps(body.get("messages", [])).count('"image_url": {')
        return {
            "prompt_tokens": asked,
            "completion_tokens": said,
            "total_tokens": asked + said,
        }

    def whole(self, body: dict[str, Any]) -> None:
        """Answer at once."""
        text = self.engine.options.answer
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        chat = self.path.endswith("/chat/completions")
        choice.update(
            {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        )
        kind = "chat.completion" if chat else "text_completion"
        head = {**HEAD, "object": kind, "model": body["model"]}
        self.send_json(200, {**head, "choices": [choice], "usage": self.usage(body)})

    def vectors(self, body: dict[str, Any]) -> None:
        """Answer a vector for each text, encoded as it was asked for."""
        given = body["input"]
        data = []
        for index, text in enumerate(given if isinstance(given, list) else [given]):
            vector = self.engine.vector(text)
            packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            shown = packed if body.get("encoding_format") == "base64" else vector
            data.append({"object": "embedding", "index": index, "embedding": shown})
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        self.send_json(
            200, {"object": "list", "model": body["model"], "data": data, "usage": usage}
        )

    def stream(self, body: dict[str, Any]) -> None:
        """Answer word by word, as server-sent events."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        chat = self.path.endswith("/chat/completions")
        kind = "chat.completion.chunk" if chat else "text_completion"
        head = {**HEAD, "object": kind, "model": body["model"]}
        for number, word in enumerate(self.engine.options.answer.split(" ")):
            if number == self.engine.options.cut_after:
                self.close_connection = True
                return
            if number == self.engine.options.error_after:
                self.event({"error": {"message": "the engine died", "code": 500}})
                break
            text = f" {word}" if number else word
            piece: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
            choice = {"index": 0, "finish_reason": None, **piece}
            self.event({**head, "choices": [choice], "usage": None})
            time.sleep(self.engine.options.token_delay)
        else:
            ending: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
            choice = {"index": 0, "finish_reason": "stop", **ending}
            self.event({**head, "choices": [choice], "usage": None})
            if (body.get("stream_options") or {}).get("include_usage"):
                self.event({**head, "choices": [], "usage": self.usage(body)})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, content: Any) -> None:
        """Send one event, its text as it is and not escaped, as vLLM does."""
        self.chunk(b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        """Send one chunk of a body of unknown length; the empty one ends it."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


def prompt_tokens(body: dict[str, Any]) -> int:
    """Return how many words a request asks with."""
    texts = [str(body.get("prompt", ""))]
    for message in body.get("messages", []):
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": str(content)}]
        texts += [part.get("text", "") for part in parts]
    return sum(len(text.split()) for text in texts)


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """An HTTP server on a Unix socket."""

    daemon_threads = True


def make_server(options: argparse.Namespace) -> socketserver.BaseServer:
    """Return the server, listening."""
    # As vLLM's server: a token leaves at once, and does not wait for the one before to be received.
    bound = {"engine": Engine(options), "disable_nagle_algorithm": options.uds is None}
    handler = type("BoundHandler", (Handler,), bound)
    if options.uds is None:
        return ThreadingHTTPServer((options.host, options.port), handler)
    path = Path(options.uds)
    path.unlink(missing_ok=True)
    server = UnixServer(str(path), handler)
    path.chmod(0o666)
    return server


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uds", help="listen on this Unix socket")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--model", action="append", help="served name; may be repeated")
    parser.add_argument("--max-model-len", type=int, default=2048, help="words it can read")
    parser.add_argument("--answer", default=ANSWER)
    parser.add_argument("--api-key", help="key that /v1 asks for")
    parser.add_argument("--blind", action="store_true", help="drop images and say nothing of it")
    parser.add_argument("--vectors", choices=[*FLAWED, "fickle"], help="a flaw")
    parser.add_argument("--start-delay", type=float, default=0, help="seconds before it listens")
    parser.add_argument("--starting", type=float, default=0, help="seconds of 503 at first")
    parser.add_argument("--list-delay", type=float, default=0, help="seconds of a list of models")
    parser.add_argument("--token-delay", type=float, default=0.01, help="seconds per word")
    parser.add_argument("--cut-after", type=int, help="words after which a stream breaks off")
    parser.add_argument("--error-after", type=int, help="words after which a stream says it died")
    parser.add_argument("--refuse", type=int, help="status with which each question is refused")
    parser.add_argument("--fail-after", type=int, help="requests after which it is dead")
    parser.add_argument("--ill-file", type=Path, help="it is dead while this file exists")
    parser.add_argument("--hang-file", type=Path, help="it answers no question while this exists")
    parser.add_argument(
        "--exit-after", type=float, help="seconds after which it ends with status 1"
    )
    return parser.parse_args(words)


def main() -> None:
    """Serve until stopped."""
    options = parse()
    if options.exit_after is not None:
        timer = threading.Timer(options.exit_after, lambda: os._exit(1))
        timer.daemon = True
        timer.start()
    time.sleep(options.start_delay)
    server = make_server(options)
    sys.stdout.write(f"listening on {server.server_address!r}\n")
    sys.stdout.flush()
    with server:
        server.serve_forever()


if __name__ == "__main__":
    main()
