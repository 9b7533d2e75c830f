#!/usr/bin/env python3
"""Ask a vLLM server about an image, with OpenAI's own client.

The image travels inside the request, so the server needs no way to where it lies.
Wants Python 3.8 or newer and openai (pip install openai).
Exit status: 0 answered, 1 refused or not reached, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import base64
import mimetypes
import os
import sys
from pathlib import Path

from openai import APIConnectionError, APIError, OpenAI


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path, help="a file: PNG, JPEG, WebP ...")
    parser.add_argument("question", help="for example: 图中有什么?")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="default: %(default)s")
    parser.add_argument("--model", help="default: the first that is served")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--temperature", type=float, default=0.7, help="0: always the same answer")
    parser.add_argument("--api-key-file", type=Path, help="default: the key in VLLM_API_KEY")
    return parser.parse_args()


def open_client(options: argparse.Namespace) -> OpenAI:
    """Return the client; it wants some key even where the server wants none."""
    file = options.api_key_file
    key = file.read_text("utf-8").strip() if file else os.environ.get("VLLM_API_KEY")
    return OpenAI(base_url=options.url, api_key=key or "EMPTY", timeout=1800, max_retries=0)


def as_url(image: Path) -> str:
    """Return a file's content as a URL."""
    kind = mimetypes.guess_type(image.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(image.read_bytes()).decode()}"


def ask(client: OpenAI, options: argparse.Namespace) -> None:
    """Ask and print the answer."""
    content = [
        {"type": "image_url", "image_url": {"url": as_url(options.image)}},
        {"type": "text", "text": options.question},
    ]
    answer = client.chat.completions.create(
        model=options.model or client.models.list().data[0].id,
        messages=[{"role": "user", "content": content}],
        temperature=options.temperature,
        max_tokens=options.max_tokens,
    )
    print(answer.choices[0].message.content)


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
        sys.exit(f"a file cannot be read: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
