"""Stand-in for the program `vllm`: its command line, and who is called then."""

import argparse
from pathlib import Path

import yaml

from vllm.entrypoints.cli import serve
from vllm.fault import FAULT


def main():
    """Read the command line and do what it says."""
    args = parse("vllm", "serve")
    # Looked up now, as vLLM's dispatch: whoever puts another function there is called.
    serve.ServeSubcommand.cmd(args)


def parse(program, *commands):
    """Return the parsed command line, with all that is said in `options` by the flags' names.

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
    given.options = {"model": given.model_tag, **config, **said}
    return given
