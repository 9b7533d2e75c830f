"""What makes ``conda activate`` work in bash and zsh: the hook, the changes, the start files."""

from __future__ import annotations

import os
import re
import shlex
from importlib.resources import files
from pathlib import Path

from .config import Config
from .environments import is_environment
from .errors import CondaError, EnvironmentLocationNotFound, EnvironmentNameNotFound

_BEGIN, _END = "# >>> conda initialize >>>", "# <<< conda initialize <<<"
_OLD_BLOCK = re.compile(f"^{_BEGIN}\n.*?^{_END}\n", re.DOTALL | re.MULTILINE)


def functions(config: Config) -> str:
    """Returns the shell functions, bound to this installation."""
    text = files("conda_standin").joinpath("conda.sh").read_text(encoding="utf-8")
    return f"export CONDA_EXE={shlex.quote(str(config.root / 'bin' / 'conda'))}\n{text}"


def activate(config: Config, environ: dict[str, str], target: str) -> str:
    """Returns the commands that enter an environment given by name or path.

    Raises:
        EnvironmentNameNotFound: no environment has this name.
        EnvironmentLocationNotFound: there is none at this path.
    """
    prefix = _locate(config, target)
    level = int(environ.get("CONDA_SHLVL") or 0)
    active = environ.get("CONDA_PREFIX", "") if level else ""
    if active == str(prefix):
        return _commands(config, environ, prefix, level, _path(environ, active, prefix))
    kept = f"export CONDA_PREFIX_{level}={shlex.quote(active)}\n" if active else ""
    return kept + _commands(config, environ, prefix, level + 1, _path(environ, active, prefix))


def deactivate(config: Config, environ: dict[str, str]) -> str:
    """Returns the commands that leave the active environment, back to the one before it."""
    level = int(environ.get("CONDA_SHLVL") or 0)
    if not level:
        return ""
    active = environ.get("CONDA_PREFIX", "")
    if level == 1:
        prompt = _prompt(environ, "")
        names = "CONDA_PREFIX CONDA_DEFAULT_ENV CONDA_PROMPT_MODIFIER"
        path = shlex.quote(_path(environ, active, None))
        return (
            f"unset {names}\nexport CONDA_SHLVL=0\nexport PATH={path}\nPS1={shlex.quote(prompt)}\n"
        )
    before = Path(environ[f"CONDA_PREFIX_{level - 1}"])
    path = _path(environ, active, before)
    return f"unset CONDA_PREFIX_{level - 1}\n" + _commands(config, environ, before, level - 1, path)


def initialize(config: Config, shells: list[str]) -> list[str]:
    """Writes conda's block into the start files of shells; returns a line per file.

    Args:
        config: names the installation.
        shells: ``bash``, ``zsh``.
    """
    lines = []
    for shell in shells:
        path = Path.home() / f".{shell}rc"
        old = path.read_text(encoding="utf-8") if path.is_file() else ""
        block = _block(config, shell)
        found = _OLD_BLOCK.search(old)
        new = old[: found.start()] + block + old[found.end() :] if found else f"{old}\n{block}\n"
        if new != old:
            path.write_text(new, encoding="utf-8")
        lines.append(f"{'modified ' if new != old else 'no change'}     {path}")
    return lines


def _block(config: Config, shell: str) -> str:
    root = config.root
    return f"""{_BEGIN}
# !! Contents within this block are managed by 'conda init' !!
__conda_setup="$('{root}/bin/conda' 'shell.{shell}' 'hook' 2> /dev/null)"
if [ $? -eq 0 ]; then
    eval "$__conda_setup"
else
    if [ -f "{root}/etc/profile.d/conda.sh" ]; then
        . "{root}/etc/profile.d/conda.sh"
    else
        export PATH="{root}/bin:$PATH"
    fi
fi
unset __conda_setup
{_END}
"""


def _locate(config: Config, target: str) -> Path:
    if target in {"base", "root", ""}:
        return config.root
    if "/" in target:
        prefix = Path(target).expanduser().absolute()
        if not is_environment(prefix):
            raise EnvironmentLocationNotFound(f"Not a conda environment: {prefix}")
        return prefix
    if not re.fullmatch(r"[\w.+-]+", target):
        raise CondaError(f"Invalid environment name: {target!r}")
    directories = [*config.words["envs_dirs"], config.root / "envs"]
    for directory in directories:
        prefix = Path(directory).expanduser() / target
        if is_environment(prefix):
            return prefix
    raise EnvironmentNameNotFound(
        f"Could not find conda environment: {target}\n"
        "You can list all discoverable environments with `conda info --envs`."
    )


def _path(environ: dict[str, str], leaving: str, entering: Path | None) -> str:
    parts = [p for p in environ.get("PATH", "").split(os.pathsep) if p]
    parts = [p for p in parts if not leaving or p != f"{leaving}/bin"]
    return os.pathsep.join([*([str(entering / "bin")] if entering else []), *parts])


def _commands(config: Config, environ: dict[str, str], prefix: Path, level: int, path: str) -> str:
    name = str(prefix)
    if prefix == config.root:
        name = "base"
    elif prefix.parent.name == "envs":
        name = prefix.name
    values = {
        "CONDA_PREFIX": str(prefix),
        "CONDA_SHLVL": str(level),
        "CONDA_DEFAULT_ENV": name,
        "CONDA_PROMPT_MODIFIER": f"({name}) ",
        "CONDA_EXE": str(config.root / "bin" / "conda"),
        "CONDA_PYTHON_EXE": str(config.root / "bin" / "python"),
        "PATH": path,
    }
    lines = [f"export {word}={shlex.quote(value)}" for word, value in values.items()]
    lines.append(f"PS1={shlex.quote(_prompt(environ, f'({name}) '))}")
    hooks = sorted((prefix / "etc" / "conda" / "activate.d").glob("*.sh"))
    return "\n".join([*lines, *(f". {shlex.quote(str(hook))}" for hook in hooks), ""])


def _prompt(environ: dict[str, str], modifier: str) -> str:
    old = environ.get("CONDA_PROMPT_MODIFIER", "")
    return (
        modifier + environ.get("PS1", "").replace(old, "", 1)
        if old
        else modifier + environ.get("PS1", "")
    )
