"""Users and groups, by name and by number, and what a file says of them."""

from __future__ import annotations

import grp
import os
import pwd
import stat

from ansible.module_utils.vllm_errors import HostError


def owner_name(number: int) -> str:
    """Return a user's name, or the number when it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def group_name(number: int) -> str:
    """Return a group's name, or the number when it has none."""
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def rights_of(status: os.stat_result) -> dict[str, str]:
    """Return mode, owner and group, as records have them."""
    return {
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "owner": owner_name(status.st_uid),
        "group": group_name(status.st_gid),
    }


def user_id(name: str) -> int:
    """Return a user's number.

    Raises:
        HostError: there is no such user.
    """
    try:
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise HostError(f"there is no user {name}; create the account first") from None


def group_id(name: str) -> int:
    """Return a group's number.

    Raises:
        HostError: there is no such group.
    """
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise HostError(f"there is no group {name}; create it first") from None
