"""Stand-in for `python -m vllm.entrypoints.openai.api_server`, the way in of older versions."""

from vllm.entrypoints.cli.main import parse
from vllm.entrypoints.cli.serve import ServeSubcommand

if __name__ == "__main__":
    ServeSubcommand.cmd(parse("api_server"))
