"""A stand-in for the engine: it speaks the OpenAI-compatible API and says one fixed sentence.

For tests of what stands around an engine. It runs no model, and only the lab's inventories may
use it.
"""

from __future__ import annotations

import argparse
import json
import os
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ANSWER = "The capital of France is Paris."
HEAD = {"id": "stand-in", "created": 0}


class Engine:
    """What all requests share: the options, and since when it runs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.began, self.requests = options, time.monotonic(), 0

    def dead(self) -> bool:
        """Tell whether the engine has "died", after which /health is 503 as vLLM's is."""
        limit = self.options.fail_after
        return limit is not None and self.requests >= limit


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server_version = "stand-in"
    engine: Engine

    def address_string(self) -> str:
        return "unix" if not self.client_address else str(self.client_address[0])

    def send_json(self, status: int, content: Any) -> None:
        """Answer with JSON."""
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, message: str) -> None:
        """Answer with an error in the API's form."""
        self.send_json(status, {"error": {"message": message, "type": "stand-in", "code": status}})

    def allowed(self) -> bool:
        """Tell whether the key is right; answer 401 when not."""
        key = self.engine.options.api_key
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            self.refuse(401, "Unauthorized")
            return False
        return True

    def do_GET(self) -> None:
        """Answer /health and the list of models."""
        if self.path == "/health":
            self.send_json(503 if self.engine.dead() else 200, {})
        elif self.path == "/v1/models":
            if self.allowed():
                model = {"id": self.engine.options.model, "object": "model", "owned_by": "vllm"}
                self.send_json(200, {"object": "list", "data": [{**model, "created": 0}]})
        else:
            self.refuse(404, "Not Found")

    def do_POST(self) -> None:
        """Answer a completion or a chat."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if not self.allowed():
            return
        self.engine.requests += 1
        if self.path not in ("/v1/completions", "/v1/chat/completions"):
            self.refuse(404, "Not Found")
        elif self.engine.dead():
            self.refuse(500, "the engine is dead")
        elif body.get("model") != self.engine.options.model:
            self.refuse(404, f"The model `{body.get('model')}` does not exist.")
        elif body.get("stream"):
            self.stream(body)
        else:
            self.whole()

    def whole(self) -> None:
        """Answer at once."""
        text, count = self.engine.options.answer, len(self.engine.options.answer.split())
        usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        chat = self.path.endswith("/chat/completions")
        choice.update(
            {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        )
        kind = "chat.completion" if chat else "text_completion"
        head = {**HEAD, "object": kind, "model": self.engine.options.model}
        self.send_json(200, {**head, "choices": [choice], "usage": usage})

    def stream(self, body: dict[str, Any]) -> None:
        """Answer word by word, as server-sent events."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        chat = self.path.endswith("/chat/completions")
        kind = "chat.completion.chunk" if chat else "text_completion"
        head = {**HEAD, "object": kind, "model": self.engine.options.model}
        words = self.engine.options.answer.split()
        for word in words:
            text = f"{word} "
            piece: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
            choice = {"index": 0, "finish_reason": None, **piece}
            self.event({**head, "choices": [choice], "usage": None})
            time.sleep(self.engine.options.token_delay)
        if (body.get("stream_options") or {}).get("include_usage"):
            count = len(words)
            usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
            self.event({**head, "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, content: Any) -> None:
        """Send one event."""
        self.wfile.write(b"data: " + json.dumps(content).encode() + b"\n\n")
        self.wfile.flush()


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """An HTTP server on a Unix socket."""

    daemon_threads = True


def make_server(options: argparse.Namespace) -> socketserver.BaseServer:
    """Return the server, listening."""
    handler = type("BoundHandler", (Handler,), {"engine": Engine(options)})
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
    parser.add_argument("--model", default="stand-in", help="served name")
    parser.add_argument("--answer", default=ANSWER)
    parser.add_argument("--api-key", help="key that /v1 asks for")
    parser.add_argument("--start-delay", type=float, default=0, help="seconds before it listens")
    parser.add_argument("--token-delay", type=float, default=0.01, help="seconds per word")
    parser.add_argument("--fail-after", type=int, help="requests after which it is dead")
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
