"""Run by the installer: makes the base environment from the packages that came with it."""

from __future__ import annotations

import json
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
    _drop_broken_records(prefix / "conda-meta")
    records = [
        _record(path) for path in sorted((prefix / "install_tmp" / "records").glob("*.json"))
    ]
    _forget_unrecorded(prefix)
    environments.link(config, prefix, records)
    packages = next((prefix / "lib").glob("python3.*")) / "site-packages"
    shutil.copytree(prefix / "install_tmp" / "site-packages", packages, dirs_exist_ok=True)
    _write_program(prefix)
    (prefix / "envs").mkdir(exist_ok=True)
    (prefix / "etc" / "profile.d").mkdir(parents=True, exist_ok=True)
    (prefix / "etc" / "profile.d" / "conda.sh").write_text(shell.functions(config))
    if not (prefix / ".condarc").exists():
        (prefix / ".condarc").write_text(_CONDARC)
    if not environments.is_environment(prefix):
        environments.write_history(config, prefix, records, [])


def _record(path: Path) -> rattler.RepoDataRecord:
    words = json.loads(path.read_text())
    package = rattler.PackageRecord.from_index_json(path.with_suffix(".index"))
    return rattler.RepoDataRecord(package, words["file_name"], words["url"], words["channel"])


def _drop_broken_records(meta: Path) -> None:
    """Removes the records of packages that an interruption left cut short."""
    for path in meta.glob("*.json"):
        try:
            rattler.PrefixRecord.from_path(path)
        except Exception:  # noqa: BLE001  # whatever is wrong with it, the package is linked again
            path.unlink()


def _forget_unrecorded(prefix: Path) -> None:
    """Removes the interpreter that no record owns, so that it is linked afresh."""
    if not list((prefix / "conda-meta").glob("python-3*.json")):
        for name in ("bin", "lib", "include"):
            shutil.rmtree(prefix / name, ignore_errors=True)


def _write_program(prefix: Path) -> None:
    code = "import sys\nfrom conda_standin.cli import main\nsys.exit(main())\n"
    text = f"#!{prefix}/bin/python -I\n{code}"
    for directory in ("bin", "condabin"):
        (prefix / directory).mkdir(exist_ok=True)
        program = prefix / directory / "conda"
        program.write_text(text)
        program.chmod(0o755)


if __name__ == "__main__":
    install(Path(sys.argv[1]))
