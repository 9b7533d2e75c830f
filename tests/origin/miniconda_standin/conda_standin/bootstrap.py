"""Run by the installer: makes the base environment from the packages that came with it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import rattler

from . import environments, shell
from .config import Config, defaults

_CONDARC = "channels:\n  - defaults\n"


def install(prefix: Path) -> None:
    """Links the base environment and puts ``conda`` into it; repairs one that is half-made.

    Args:
        prefix: where the installer has unpacked its payload.
    """
    config = Config(prefix, defaults())  # no file of the machine takes part
    _begin(prefix)
    records = [
        _record(path) for path in sorted((prefix / "install_tmp" / "records").glob("*.json"))
    ]
    environments.link(config, prefix, records)
    packages = next((prefix / "lib").glob("python3.*")) / "site-packages"
    shutil.copytree(prefix / "install_tmp" / "site-packages", packages, dirs_exist_ok=True)
    (prefix / "envs").mkdir(exist_ok=True)
    (prefix / "etc" / "profile.d").mkdir(parents=True, exist_ok=True)
    (prefix / "etc" / "profile.d" / "conda.sh").write_text(shell.functions(config))
    if not (prefix / ".condarc").exists():
        (prefix / ".condarc").write_text(_CONDARC)
    if not environments.is_environment(prefix):
        environments.write_history(config, prefix, records, [])
    _write_program(prefix)


def _record(path: Path) -> rattler.RepoDataRecord:
    words = json.loads(path.read_text())
    package = rattler.PackageRecord.from_index_json(path.with_suffix(".index"))
    return rattler.RepoDataRecord(package, words["file_name"], words["url"], words["channel"])


def _begin(prefix: Path) -> None:
    """Clears away a base environment that an interruption left half-made.

    ``bin/conda`` is the last thing written and the first removed, so its absence tells of one.
    """
    program = prefix / "bin" / "conda"
    if program.is_file():
        program.unlink()
        return
    for name in ("bin", "conda-meta", "include", "lib"):
        shutil.rmtree(prefix / name, ignore_errors=True)


def _write_program(prefix: Path) -> None:
    code = "from conda_standin.cli import run\nrun()\n"
    text = f"#!{prefix}/bin/python -I\n{code}"
    for directory in ("condabin", "bin"):
        (prefix / directory).mkdir(exist_ok=True)
        fresh = prefix / directory / ".conda.new"
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.replace(prefix / directory / "conda")


if __name__ == "__main__":
    install(Path(sys.argv[1]))
    sys.stdout.flush()
    # As in cli.run: py-rattler's threads may never come back.
    os._exit(0)
