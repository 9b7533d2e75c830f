"""The command ``conda``: what roles may use of it, and nothing else.

Whatever is not here ends with status 2, so that no role comes to rely on it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import rattler

from . import STANDIN, VERSION, environments, shell
from .config import Config, load
from .errors import CondaEnvironmentError, CondaError, EnvironmentLocationNotFound

ROOT = Path(sys.prefix)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0].startswith("shell."):
        return _guarded(lambda: _shell(words), as_json=False)
    options = _parser().parse_args(words)
    return _guarded(lambda: options.run(options), as_json=getattr(options, "json", False))


def run() -> None:
    """Runs one command as a program and ends the process.

    Python's own end waits for the threads of py-rattler, which now and then never come back.
    """
    try:
        status = main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    for stream in (sys.stdout, sys.stderr):
        # Whoever read the output may have gone.
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    os._exit(status)


def _guarded(command: Callable[[], int], *, as_json: bool) -> int:
    try:
        return command()
    except CondaError as error:
        name = type(error).__name__
        if as_json:
            content = {"error": f"{name}: {error}", "exception_name": name, "message": str(error)}
            _say(
                environments.dump(
                    {**content, "exception_type": f"<class 'conda.exceptions.{name}'>"}
                )
            )
        else:
            _complain(f"\n{name}: {error}\n")
        return 1


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="conda", description=f"conda {VERSION}: {STANDIN}", allow_abbrev=False
    )
    parser.add_argument("-V", "--version", action="version", version=f"conda {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, allow_abbrev=False)
        made.set_defaults(run=run)
        made.add_argument("--json", action="store_true")
        return made

    create = command("create", _create, "Create a new conda environment.")
    _add_place(create)
    _add_consent(create)
    create.add_argument("-c", "--channel", action="append", default=[])
    create.add_argument("--override-channels", action="store_true")
    create.add_argument("packages", nargs="*", metavar="package_spec")
    remove = command("remove", _remove, "Remove a whole environment.")
    _add_place(remove)
    _add_consent(remove)
    remove.add_argument("--all", action="store_true", required=True)
    _add_place(command("list", _list, "List the packages of an environment."))
    command("info", _info, "Display information about this installation.")
    config = command("config", _config, "Show the configuration.")
    config.add_argument("--show", nargs="*", metavar="WORD", required=True)
    env = command("env", _env_list, "List environments.")
    env.add_argument("action", choices=["list"])
    init = command("init", _init, "Initialize conda for shells.")
    init.add_argument("shells", nargs="*", choices=["bash", "zsh", []], metavar="SHELL")
    return parser


def _add_place(parser: argparse.ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group()
    place.add_argument("-p", "--prefix")
    place.add_argument("-n", "--name")


def _add_consent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-y", "--yes", action="store_true")
    parser.add_argument("-q", "--quiet", action="store_true")


def _prefix(config: Config, options: argparse.Namespace, *, needed: bool) -> Path:
    if options.prefix:
        return Path(options.prefix).expanduser().absolute()
    if options.name:
        return ROOT if options.name == "base" else config.envs_dir / options.name
    if needed:
        raise CondaError("one of the arguments -n/--name -p/--prefix is required")
    return Path(os.environ.get("CONDA_PREFIX") or ROOT)


def _agreed(config: Config, options: argparse.Namespace) -> bool:
    """Whether to go on: --yes, --json or always_yes, else the person's answer."""
    if options.yes or options.json or config.words["always_yes"]:
        return True
    try:
        return input("Proceed ([y]/n)? ").strip().lower() in {"", "y", "yes"}
    except EOFError:
        return False


def _create(options: argparse.Namespace) -> int:
    config = load(ROOT)
    prefix = _prefix(config, options, needed=True)
    if prefix == ROOT:
        raise CondaEnvironmentError("The target prefix is the base prefix. Aborting.")
    if options.override_channels and not options.channel:
        raise CondaError(
            "At least one -c / --channel flag must be supplied when using --override-channels."
        )
    if not _agreed(config, options):
        _complain("\nCondaSystemExit: Exiting.\n")
        return 1
    channels = options.channel + ([] if options.override_channels else config.words["channels"])
    done = environments.create(config, prefix, options.packages, channels)
    if options.json:
        _say(environments.dump(done))
    elif not options.quiet:
        for package in done["actions"]["LINK"]:
            place = f"{package['channel']}/{package['platform']}"
            _say(f"  {package['name']:<20} {place}::{package['dist_name']}")
        _say(f"#\n# To activate this environment, use\n#\n#     $ conda activate {prefix}\n#")
    return 0


def _remove(options: argparse.Namespace) -> int:
    config = load(ROOT)
    prefix = _prefix(config, options, needed=False)
    if not _agreed(config, options):
        _complain("\nCondaSystemExit: Exiting.\n")
        return 1
    done = environments.remove(config, prefix)
    _say(
        environments.dump(done)
        if options.json
        else f"\nRemove all packages in environment {prefix}:\n"
    )
    return 0


def _list(options: argparse.Namespace) -> int:
    config = load(ROOT)
    prefix = _prefix(config, options, needed=False)
    if not prefix.is_dir():
        raise EnvironmentLocationNotFound(f"Not a conda environment: {prefix}")
    found = environments.packages(config, prefix)
    if options.json:
        _say(environments.dump(found))
        return 0
    _say(f"# packages in environment at {prefix}:\n#")
    _say(f"# {'Name':<23} {'Version':<15} {'Build':<15} Channel")
    for package in found:
        channel = package["channel"]
        if channel != "pypi":
            channel = config.shown_name(package["base_url"])
        shown = channel if config.words["show_channel_urls"] or channel != "defaults" else ""
        words = f"{package['name']:<25} {package['version']:<15} {package['build_string']:<15}"
        _say(f"{words} {shown}".rstrip())
    return 0


def _info(options: argparse.Namespace) -> int:
    config = load(ROOT)
    urls = config.channel_urls(config.words["channels"])
    found = {
        "active_prefix": os.environ.get("CONDA_PREFIX"),
        "channels": [f"{url}/{subdir}" for url in urls for subdir in ("linux-64", "noarch")],
        "conda_location": str(Path(__file__).parent),
        "conda_prefix": str(ROOT),
        "conda_version": VERSION,
        "config_files": [str(path) for path in config.files],
        "default_prefix": os.environ.get("CONDA_PREFIX") or str(ROOT),
        "envs": environments.environments(config),
        "envs_dirs": [str(config.envs_dir)],
        "offline": False,
        "pkgs_dirs": [str(config.pkgs_dir)],
        "platform": "linux-64",
        "python_version": f"{platform.python_version()}.final.0",
        "root_prefix": str(ROOT),
        "root_writable": os.access(ROOT, os.W_OK),
        "standin": STANDIN,
        "sys.prefix": sys.prefix,
        "sys.version": sys.version,
        "user_agent": f"conda-standin/{VERSION}",
        "user_rc_path": str(Path.home() / ".condarc"),
        "virtual_pkgs": [_virtual(p) for p in rattler.VirtualPackage.detect()],
    }
    if options.json:
        _say(environments.dump(found))
    else:
        _say("\n".join(f"{name:>23} : {value}" for name, value in found.items()))
    return 0


def _virtual(package: Any) -> list[str]:
    generic = package.into_generic()
    return [generic.name.normalized, str(generic.version), str(generic.build_string)]


def _config(options: argparse.Namespace) -> int:
    config = load(ROOT)
    unknown = [word for word in options.show if word not in config.words]
    if unknown:
        raise CondaError(f"Invalid configuration parameters: {', '.join(unknown)}")
    shown: dict[str, Any] = {
        word: config.words[word] for word in options.show or sorted(config.words)
    }
    if "custom_channels" in shown and options.json:
        shown["custom_channels"] = {
            n: _address(n, base) for n, base in shown["custom_channels"].items()
        }
    if options.json:
        _say(environments.dump(shown))
        return 0
    for word, value in shown.items():
        items = value.items() if isinstance(value, dict) else None
        _say(f"{word}:" if isinstance(value, (list, dict)) else f"{word}: {value}")
        for line in (
            [f"  {n}: {v}" for n, v in items] if items else value if isinstance(value, list) else []
        ):
            _say(line if items else f"  - {line}")
    return 0


def _address(name: str, base: str) -> dict[str, Any]:
    parts = urlsplit(base)
    words = {
        "name": name,
        "scheme": parts.scheme,
        "location": f"{parts.netloc}{parts.path}".rstrip("/"),
    }
    return {**words, "auth": None, "package_filename": None, "platform": None, "token": None}


def _env_list(options: argparse.Namespace) -> int:
    config = load(ROOT)
    found = {p: environments.details(config, p) for p in environments.environments(config)}
    if options.json:
        _say(environments.dump({"envs": list(found), "envs_details": found}))
        return 0
    _say("# conda environments:\n#")
    for prefix, words in found.items():
        _say(f"{words['name']:<20} {'*' if words['active'] else ' '}  {prefix}")
    return 0


def _init(options: argparse.Namespace) -> int:
    lines = shell.initialize(load(ROOT), options.shells or ["bash"])
    _say("\n".join(lines))
    if any(line.startswith("modified") for line in lines):
        _say("\n==> For changes to take effect, close and re-open your current shell. <==\n")
    return 0


def _shell(words: list[str]) -> int:
    """What the shell's functions call: ``conda shell.posix activate NAME``."""
    config = load(ROOT)
    match words[1:]:
        case ["hook"]:
            _say(shell.functions(config) + "conda activate base")
        case ["activate"]:
            _say(shell.activate(config, dict(os.environ), "base"))
        case ["activate", target]:
            _say(shell.activate(config, dict(os.environ), target))
        case ["deactivate"]:
            _say(shell.deactivate(config, dict(os.environ)))
        case _:
            _complain(f"conda: error: {' '.join(words)} is not known to this stand-in")
            return 2
    return 0
