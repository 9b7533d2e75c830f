"""Stand-in for `vllm serve --config FILE`: the stand-in engine where vLLM's would be."""

import argparse
from pathlib import Path

import yaml

from vllm import standin_engine


def main():
    """Reads from the configuration where to listen and what the model is called."""
    parser = argparse.ArgumentParser(prog="vllm")
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--config", type=Path, required=True)
    config = yaml.safe_load(parser.parse_args().config.read_text(encoding="utf-8"))
    names = config.get("served-model-name", config["model"])
    words = ["--model", names if isinstance(names, str) else names[0]]
    for flag in ("uds", "host", "port"):
        words += [f"--{flag}", str(config[flag])] if flag in config else []
    options = standin_engine.parse(words)
    with standin_engine.make_server(options) as server:
        server.serve_forever()
