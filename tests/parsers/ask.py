"""Runs inside a version's environment: hands its own parser what a plan starts the server with.

Called with two files: the questions, a JSON list of command lines as systemd would run them, and
where the answers go, a JSON list of {"error": text or null, "values": {flag: value}}, and before
them the options that the parser has. Lines that begin with "serve" go through `vllm`'s own main();
the others through the parser of `python -m vllm.entrypoints.openai.api_server`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any


def serve_parser() -> Any:
    """A function that parses as `vllm serve` does, and the list that the options go into."""
    from vllm.entrypoints.cli import main as program
    from vllm.entrypoints.cli.serve import ServeSubcommand

    options: list[str] = []
    found: list[Any] = []
    subparser_init = ServeSubcommand.subparser_init

    def begin(args: Any) -> None:
        found.append(args)

    def noted(self: Any, subparsers: Any) -> Any:
        parser = subparser_init(self, subparsers)
        options[:] = own_options(parser)
        return parser

    # What comes after parsing and its checks: the server's start.
    ServeSubcommand.cmd = staticmethod(begin)
    ServeSubcommand.subparser_init = noted

    def parse(line: list[str]) -> Any:
        found.clear()
        sys.argv = ["vllm", *line]
        program.main()
        return found[0]

    return parse, options


def own_options(parser: Any) -> list[str]:
    """The options that were meant, without the opposites that a switch brings along.

    0.33.0 makes --disable-x of --enable-x, also where there was a --disable-x of another meaning.
    """
    found = []
    for option, action in parser._option_string_actions.items():
        switch = isinstance(action, argparse.BooleanOptionalAction)
        if not switch or option.lstrip("-").replace("-", "_") == action.dest:
            found.append(option)
    return sorted(found)


def server_parser() -> Any:
    """The same of the server's module."""
    from vllm.entrypoints.openai import cli_args

    if hasattr(cli_args, "validate_parsed_serve_args"):
        from vllm.utils import FlexibleArgumentParser

        parser = cli_args.make_arg_parser(FlexibleArgumentParser())
        check = cli_args.validate_parsed_serve_args
    else:
        parser = cli_args.make_arg_parser()
        check = None
    options = own_options(parser)

    def parse(line: list[str]) -> Any:
        args = parser.parse_args(line)
        if check is not None:
            check(args)
        return args

    return parse, options


def answer(parse: Any, line: list[str]) -> dict[str, Any]:
    """What the parser and then the engine's own arguments make of a line."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            args = parse(line)
            AsyncEngineArgs.from_cli_args(args)
    except SystemExit as end:
        return {"error": said.getvalue().strip() or f"exit status {end.code}", "values": {}}
    except Exception as error:  # noqa: BLE001 - whatever it is, the server would not start
        return {"error": f"{type(error).__name__}: {error}", "values": {}}
    return {"error": None, "values": {name: plain(value) for name, value in vars(args).items()}}


def plain(value: Any) -> Any:
    """A value as JSON has it; what JSON has not, as text."""

    def inside(other: Any) -> Any:
        return vars(other) if hasattr(other, "__dict__") else str(other)

    return json.loads(json.dumps(value, default=inside))


def main() -> None:
    """Read, parse, write."""
    lines = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    target = Path(sys.argv[2])
    serving = any(line[:1] == ["serve"] for line in lines)
    parse, options = serve_parser() if serving else server_parser()
    answers = [answer(parse, line) for line in lines]
    target.write_text(json.dumps([options, answers]), "utf-8")


if __name__ == "__main__":
    main()
