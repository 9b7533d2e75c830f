#!/usr/bin/env python3
"""Ask a vLLM server with OpenAI's own client, with or without a stream.

Wants Python 3.8 or newer and openai (pip install openai).
Exit status: 0 answered, 1 refused or not reached, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from openai import APIConnectionError, APIError, OpenAI


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", help="for example: 天空为什么是蓝色的")
    parser.add_argument("--stream", action="store_true", help="print the answer as it comes")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="default: %(default)s")
    parser.add_argument("--model", help="default: the first that is served")
    parser.add_argument("--system", default="You are a helpful assistant.")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--temperature", type=float, default=0.7, help="0: always the same answer")
    parser.add_argument("--api-key-file", type=Path, help="default: the key in VLLM_API_KEY")
    return parser.parse_args()


def open_client(options: argparse.Namespace) -> OpenAI:
    """Return the client; it wants some key even where the server wants none."""
    file = options.api_key_file
    key = file.read_text("utf-8").strip() if file else os.environ.get("VLLM_API_KEY")
    return OpenAI(base_url=options.url, api_key=key or "EMPTY", timeout=1800, max_retries=0)


def ask(client: OpenAI, options: argparse.Namespace) -> None:
    """Ask and print the answer."""
    request = {
        "model": options.model or client.models.list().data[0].id,
        "messages": [
            {"role": "system", "content": options.system},
            {"role": "user", "content": options.question},
        ],
        "temperature": options.temperature,
        "top_p": 0.8,
        "max_tokens": options.max_tokens,
        # What vLLM knows and OpenAI does not goes here.
        "extra_body": {"repetition_penalty": 1.05},
    }
    if not options.stream:
        print(client.chat.completions.create(**request).choices[0].message.content)
        return
    for chunk in client.chat.completions.create(**request, stream=True):
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


def main() -> None:
    """Ask, or end with what is wrong."""
    options = parse()
    try:
        ask(open_client(options), options)
    except APIConnectionError as error:
        sys.exit(f"{options.url} cannot be reached: {error.__cause__ or error}")
    except APIError as error:
        sys.exit(f"the server refuses: {error}")
    except OSError as error:
        sys.exit(f"the key cannot be read: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
