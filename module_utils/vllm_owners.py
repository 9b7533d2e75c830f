"""Users and groups, by name and by number."""

from __future__ import annotations

import grp
import pwd

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
