#!/usr/bin/env python3
"""Answer many questions with vLLM inside this program: no server, no key, no network.

It is run on a server, with the Python of its release and beside no other engine that fills the
memory (systemctl stop vllm@INSTANCE):

    /opt/vllm/current/bin/python offline_batch.py --model /srv/models/NAME/REVISION < questions.txt

Each line of standard input is a question; one JSON object per answer goes to standard output, in
the same order. Exit status: 0 answered, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="directory of the model")
    parser.add_argument("--system", default="You are a helpful assistant.")
    parser.add_argument("--plain", action="store_true", help="go on with each line: no chat")
    parser.add_argument("--max-tokens", type=int, default=512, help="of each answer")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max-model-len", type=int, default=2048, help="question and answer")
    parser.add_argument("--kv-cache-gib", type=int, default=1, help="on processors")
    parser.add_argument("--tensor-parallel-size", type=int, default=1, help="number of GPUs")
    parser.add_argument("--compile", action="store_true", help="slower to start, wants g++")
    return parser.parse_args()


def set_environment(options: argparse.Namespace) -> None:
    """Tell vLLM, before it is imported, what it takes from the environment alone."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # Unset, it would take nearly all of the memory, and refuse to start where less is free.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(options.kv_cache_gib))
    if not options.compile:
        # The sampler compiles even where the model does not.
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")


def as_chat(questions: list[str], options: argparse.Namespace) -> list[str]:
    """Return each question in the form of the model's chat template."""
    from transformers import AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(str(options.model), local_files_only=True)
    system = [{"role": "system", "content": options.system}] if options.system else []
    return [
        tokenizer.apply_chat_template(
            [*system, {"role": "user", "content": question}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for question in questions
    ]


def generate(prompts: list[str], options: argparse.Namespace) -> list[Any]:
    """Return vLLM's outputs, in the order of the prompts."""
    from vllm import LLM, SamplingParams  # noqa: PLC0415

    engine = LLM(
        model=str(options.model),
        max_model_len=options.max_model_len,
        tensor_parallel_size=options.tensor_parallel_size,
        enforce_eager=not options.compile,
    )
    sampling = SamplingParams(
        temperature=options.temperature,
        top_p=0.8,
        repetition_penalty=1.05,
        max_tokens=options.max_tokens,
    )
    outputs = list(engine.generate(prompts, sampling))
    # Else the program waits for the engine's processes at its end, and they for it.
    engine.llm_engine.engine_core.shutdown()
    return outputs


def main() -> None:
    """Read, answer, print."""
    options = parse()
    if not (options.model / "config.json").is_file():
        sys.exit(f"{options.model} is no directory of a model: it has no config.json")
    try:
        lines = sys.stdin.buffer.read().decode("utf-8").split("\n")
    except UnicodeDecodeError:
        sys.exit("standard input is not UTF-8; it may want: iconv -f GB18030 -t UTF-8")
    questions = [line.strip() for line in lines if line.strip()]
    if not questions:
        sys.exit("standard input has no question: one per line")
    set_environment(options)
    try:
        prompts = questions if options.plain else as_chat(questions, options)
        outputs = generate(prompts, options)
    except ImportError as error:
        sys.exit(f"{sys.executable} has no vLLM ({error}); try /opt/vllm/current/bin/python")
    for question, output in zip(questions, outputs, strict=True):
        answer = output.outputs[0]
        result = {
            "question": question,
            "answer": answer.text,
            "tokens": len(answer.token_ids),
            "finish_reason": answer.finish_reason,
        }
        print(json.dumps(result, ensure_ascii=False))


# vLLM starts processes that import this file again: nothing may run on import.
if __name__ == "__main__":
    main()
