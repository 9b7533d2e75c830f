"""Filter for the web UI's accounts: passwords hashed, the same again while they are the same."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
from collections.abc import Callable, Mapping

# The application's own figures: roles/webui/files/vllm_webui/login.py.
COST, BLOCKS, LANES = 16384, 8, 1
_SALT = re.compile(r"scrypt\$([A-Za-z0-9+/=]+)\$")


def hashed(password: str, salt: bytes) -> str:
    """Return `scrypt$SALT$HASH`."""
    found = hashlib.scrypt(password.encode(), salt=salt, n=COST, r=BLOCKS, p=LANES, dklen=32)
    return "$".join(["scrypt", *(base64.b64encode(one).decode() for one in (salt, found))])


def hashed_logins(logins: Mapping[str, str], before: str = "") -> str:
    """Return the accounts as the host keeps them, in JSON.

    Args:
        logins: The passwords by user.
        before: What the host has; a hash that is still right stays, so that nothing changes.
    """
    try:
        known = json.loads(before or "{}")
    except ValueError:
        known = {}
    known = known if isinstance(known, dict) else {}
    kept = {user: _kept(str(word), str(known.get(user, ""))) for user, word in logins.items()}
    return json.dumps(kept, sort_keys=True)


def _kept(password: str, before: str) -> str:
    match = _SALT.match(before)
    if match:
        again = hashed(password, base64.b64decode(match[1]))
        if hmac.compare_digest(again, before):
            return before
    return hashed(password, os.urandom(16))


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return the filters by name."""
        return {"hashed_logins": hashed_logins}
