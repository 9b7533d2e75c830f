#!/usr/bin/env python3
"""Ask a vLLM server with the library requests, and print the answer as it comes.

Wants Python 3.8 or newer and requests (pip install requests).
Exit status: 0 answered, 1 refused or not reached, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from collections.abc import Iterator


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", help="for example: 天空为什么是蓝色的")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="default: %(default)s")
    parser.add_argument("--model", help="default: the first that is served")
    parser.add_argument("--system", default="You are a helpful assistant.")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--temperature", type=float, default=0.7, help="0: always the same answer")
    parser.add_argument("--api-key-file", type=Path, help="default: the key in VLLM_API_KEY")
    return parser.parse_args()


def open_session(options: argparse.Namespace) -> requests.Session:
    """Return a session that shows the key with every request."""
    session = requests.Session()
    file = options.api_key_file
    key = file.read_text("utf-8").strip() if file else os.environ.get("VLLM_API_KEY", "")
    if key:
        session.headers["Authorization"] = f"Bearer {key}"
    return session


def checked(response: requests.Response) -> requests.Response:
    """Return an answer, or end with what the server says is wrong."""
    if not response.ok:
        sys.exit(f"the server refuses, status {response.status_code}: {response.text}")
    return response


def ask(session: requests.Session, options: argparse.Namespace) -> Iterator[str]:
    """Yield the pieces of the answer."""
    url = options.url.rstrip("/")
    models = checked(session.get(f"{url}/models", timeout=10)).json()["data"]
    body: dict[str, Any] = {
        "model": options.model or models[0]["id"],
        "messages": [
            {"role": "system", "content": options.system},
            {"role": "user", "content": options.question},
        ],
        "temperature": options.temperature,
        "top_p": 0.8,
        "repetition_penalty": 1.05,
        "max_tokens": options.max_tokens,
        "stream": True,
    }
    # A processor may take minutes to read a long question: 1800 s of silence are allowed.
    response = session.post(f"{url}/chat/completions", json=body, stream=True, timeout=(10, 1800))
    for line in checked(response).iter_lines(chunk_size=None):
        # Each event is one line "data: {...}"; the last one is "data: [DONE]".
        if not line.startswith(b"data: ") or line == b"data: [DONE]":
            continue
        event = json.loads(line[len(b"data: ") :])
        if "error" in event:
            sys.exit(f"the server broke off: {event['error']}")
        for choice in event["choices"]:
            yield choice["delta"].get("content") or ""


def main() -> None:
    """Ask and print."""
    options = parse()
    try:
        for piece in ask(open_session(options), options):
            print(piece, end="", flush=True)
    except requests.RequestException as error:
        sys.exit(f"{options.url} cannot be asked: {error}")
    except OSError as error:
        sys.exit(f"the key cannot be read: {error}")
    except (KeyError, IndexError):
        sys.exit(f"what answers at {options.url} is no OpenAI-compatible API")
    except KeyboardInterrupt:
        sys.exit(130)
    print()


if __name__ == "__main__":
    main()
