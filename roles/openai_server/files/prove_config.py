"""Have a version's own code take an instance's configuration, without starting anything.

Called with "parse" or "build" and the words that the server would be started with: "serve
--config FILE", or the arguments of `python -m vllm.entrypoints.openai.api_server`. Its parser reads
them, its engine's arguments are made of them and, for "build", the engine's whole configuration:
the model's own is read, sizes and features are checked against each other, no weight is loaded.

It ends with status 0, or says why the server would not start.
"""

import sys
from typing import Any


def served(words: list[str]) -> Any:
    """Return what `vllm serve` makes of the words, by its own main()."""
    from vllm.entrypoints.cli import main as program
    from vllm.entrypoints.cli.serve import ServeSubcommand

    found: list[Any] = []
    # What comes after parsing and its checks: the server's start.
    ServeSubcommand.cmd = staticmethod(found.append)
    sys.argv = ["vllm", *words]
    program.main()
    return found[0]


def started(words: list[str]) -> Any:
    """Return what the server's module makes of its arguments."""
    from vllm.entrypoints.openai import cli_args

    check = getattr(cli_args, "validate_parsed_serve_args", None)
    if check is None:
        return cli_args.make_arg_parser().parse_args(words)
    from vllm.utils import FlexibleArgumentParser

    args = cli_args.make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    check(args)
    return args


def main() -> None:
    """Take them."""
    how, words = sys.argv[1], sys.argv[2:]
    args = served(words) if words[0] == "serve" else started(words)
    from vllm.engine.arg_utils import AsyncEngineArgs

    engine = AsyncEngineArgs.from_cli_args(args)
    if how == "build":
        from vllm.usage.usage_lib import UsageContext

        engine.create_engine_config(UsageContext.OPENAI_API_SERVER)
    print(f"the configuration was taken ({how})")


if __name__ == "__main__":
    main()
