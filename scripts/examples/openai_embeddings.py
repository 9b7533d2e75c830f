#!/usr/bin/env python3
"""Have a vLLM server turn texts into vectors, and print how alike each is to the first.

Wants Python 3.8 or newer and openai (pip install openai).
Exit status: 0 answered, 1 refused or not reached, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path

from openai import APIConnectionError, APIError, OpenAI


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", nargs="+", help="for example: 天空是蓝色的 海是蓝色的 今天下雨")
    parser.add_argument("--json", action="store_true", help="print the vectors, one line each")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="default: %(default)s")
    parser.add_argument("--model", help="default: the first that is served")
    parser.add_argument("--api-key-file", type=Path, help="default: the key in VLLM_API_KEY")
    return parser.parse_args()


def open_client(options: argparse.Namespace) -> OpenAI:
    """Return the client; it wants some key even where the server wants none."""
    file = options.api_key_file
    key = file.read_text("utf-8").strip() if file else os.environ.get("VLLM_API_KEY")
    return OpenAI(base_url=options.url, api_key=key or "EMPTY", timeout=1800, max_retries=0)


def cosine(one: list[float], other: list[float]) -> float:
    """Return 1 for vectors that point the same way, 0 for a right angle."""
    length = math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))
    return sum(a * b for a, b in zip(one, other)) / length  # noqa: B905  # Python 3.8


def ask(client: OpenAI, options: argparse.Namespace) -> None:
    """Ask and print."""
    model = options.model or client.models.list().data[0].id
    # All texts in one request: the server computes them together.
    found = client.embeddings.create(model=model, input=options.text).data
    vectors = [one.embedding for one in sorted(found, key=lambda one: one.index)]
    for text, vector in zip(options.text, vectors):  # noqa: B905  # Python 3.8
        if options.json:
            print(json.dumps({"text": text, "embedding": list(vector)}, ensure_ascii=False))
        else:
            print(f"{cosine(vectors[0], vector):6.3f}  {len(vector)} numbers  {text}")


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
