"""A stand-in for vLLM inside a program: it says back what it was given."""

import json
import os
from types import SimpleNamespace


class SamplingParams:
    def __init__(self, **values):
        self.values = values


class LLM:
    def __init__(self, **values):
        names = ("VLLM_CPU_KVCACHE_SPACE", "HF_HUB_OFFLINE", "TORCH_COMPILE_DISABLE")
        self.values = values | {name: os.environ.get(name) for name in names}
        core = SimpleNamespace(shutdown=lambda: None)
        self.llm_engine = SimpleNamespace(engine_core=core)

    def generate(self, prompts, sampling):
        for prompt in prompts:
            said = {"prompt": prompt, "engine": self.values, "sampling": sampling.values}
            answer = SimpleNamespace(text=json.dumps(said), token_ids=[1, 2], finish_reason="stop")
            yield SimpleNamespace(outputs=[answer])
