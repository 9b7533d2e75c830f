"""Lines of ours in the start files of users' shells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ansible.module_utils.vllm_errors import HostError

if TYPE_CHECKING:
    import pwd

BLOCK = re.compile(
    r"^# >>> conda initialize >>>$.*?^# <<< conda initialize <<<$\n?", re.MULTILINE | re.DOTALL
)
SHELLS = ("bash", "zsh")


def is_ours(block: str, program: Path) -> bool:
    """Say whether a block that conda wrote is of this installation."""
    return f"'{program}'" in block or f'"{program}"' in block


def is_known(start_file: Path, program: Path) -> bool:
    """Say whether a start file has conda's block, and it is this installation's.

    Raises:
        HostError: the file cannot be read.
    """
    try:
        text = start_file.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HostError(f"{start_file} cannot be read: {error.strerror}") from error
    return any(is_ours(block, program) for block in BLOCK.findall(text))


def start_files(user: pwd.struct_passwd, shells: list[str]) -> dict[str, Path]:
    """Return the start file of each shell."""
    return {shell: Path(user.pw_dir) / f".{shell}rc" for shell in shells}
