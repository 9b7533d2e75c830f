"""Stand-in for `vllm serve`: the stand-in engine where vLLM's would be.

What it does beside answering comes, in this order, from the release (a broken one), the variable
STANDIN_ENGINE and the file `standin-engine` in the working directory: words of the stand-in
engine's own command line, `python -m vllm.standin_engine --help`. It is ill while there is a file
`ill` in that directory.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

import yaml

from vllm import standin_engine
from vllm.fault import FAULT

FAULTS = {
    "dies": ["--start-delay", "1", "--exit-after", "0.5"],
    "never": ["--fail-after", "0"],
    "refuses": ["--refuse", "500"],
    "empty": ["--answer", ""],
}
HERE = Path("standin-engine")


def main():
    """Serve, as the program `vllm` does."""
    run("vllm", "serve")


def run(program, *commands):
    """Read where to listen and what the model is called, and serve.

    Args:
        program: the name in messages.
        commands: words that must stand before the options.
    """
    parser = argparse.ArgumentParser(prog=program)
    for number, command in enumerate(commands):
        parser.add_argument(f"command{number}", choices=[command])
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--config", type=Path)
    for flag in ("model", "uds", "host", "port"):
        parser.add_argument(f"--{flag}")
    parser.add_argument("--served-model-name", nargs="+")
    given, _ = parser.parse_known_args()
    if FAULT == "config":
        parser.error("unrecognized arguments: this release is broken on purpose")
    config = yaml.safe_load(given.config.read_text(encoding="utf-8")) if given.config else {}
    said = {name.replace("_", "-"): value for name, value in vars(given).items() if value}
    options = {**config, **said}
    names = options.get("served-model-name") or options.get("model") or given.model_tag
    words = []
    for name in [names] if isinstance(names, str) else names:
        words += ["--model", name]
    for flag in ("uds", "host", "port"):
        words += [f"--{flag}", str(options[flag])] if flag in options else []
    words += ["--ill-file", "ill", *FAULTS.get(FAULT, [])]
    words += shlex.split(os.environ.get("STANDIN_ENGINE", ""))
    words += shlex.split(HERE.read_text(encoding="utf-8")) if HERE.is_file() else []
    sys.argv = [sys.argv[0], *words]
    standin_engine.main()
