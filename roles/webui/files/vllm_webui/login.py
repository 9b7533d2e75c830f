"""Whether a password is the right one. What is stored is salted and costly to guess from."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping

# 16 MiB and some 50 ms for each guess (RFC 7914's figures for a login).
COST, BLOCKS, LANES = 16384, 8, 1
_HASHED = re.compile(r"scrypt\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)")
# Compared with where there is no such user, so that the time taken does not tell.
_NOBODY = f"scrypt${base64.b64encode(bytes(16)).decode()}${base64.b64encode(bytes(32)).decode()}"


def matches(password: str, hashed: str) -> bool:
    """Tell whether a password is the one that `scrypt$SALT$HASH` was made from."""
    parts = _HASHED.fullmatch(hashed)
    if parts is None:
        return False
    salt, wanted = base64.b64decode(parts[1]), base64.b64decode(parts[2])
    found = hashlib.scrypt(password.encode(), salt=salt, n=COST, r=BLOCKS, p=LANES, dklen=32)
    return hmac.compare_digest(found, wanted)


def allowed(logins: Mapping[str, str], user: str, password: str) -> bool:
    """Tell whether somebody may enter."""
    return matches(password, logins.get(user, _NOBODY)) and user in logins
