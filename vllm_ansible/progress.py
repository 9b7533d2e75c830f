"""Progress of long work as people read it: how much, how fast, how long still.

What runs on a host for minutes says so in lines of one shape, so that those who watch a run (a
terminal, `scripts/provision`) can tell them from everything else that Ansible prints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_MARK = "  > "
_LINE = re.compile(r"  > (?P<host>\S+): (?P<text>.+)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def clock(seconds: float) -> str:
    """Returns seconds as people say them: 58 s, 12 min 5 s, 1 h 3 min."""
    whole = int(seconds)
    if whole < 60:  # noqa: PLR2004
        return f"{whole} s"
    if whole < 3600:  # noqa: PLR2004
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def amount(count: float) -> str:
    """Returns bytes as people say them, in powers of ten: 910 B, 4.30 MB, 24.3 MB, 152 GB."""
    for size, unit in _UNITS:
        if count >= size:
            number = count / size
            digits = 0 if number >= 100 else 1 if number >= 10 else 2  # noqa: PLR2004
            return f"{number:.{digits}f} {unit}"
    return f"{int(count)} B"


def shown(host: str, text: str) -> str:
    """Returns the line that a run prints about a host's work.

    Args:
        host: Inventory name of the host.
        text: What the work is and how far it is.
    """
    return f"{_MARK}{host}: {text}"


def heard(line: str) -> tuple[str, str] | None:
    """Returns host and text of a line that `shown` made, coloured or not; None for any other."""
    found = _LINE.fullmatch(_COLOURS.sub("", line).rstrip())
    return (found["host"], found["text"]) if found else None


def building(seen: Mapping[str, Any]) -> str:
    """Returns how far a build is.

    Args:
        seen: `elapsed` seconds, and `progress` with the steps `done` and their `total`, or None.
    """
    steps, elapsed = seen.get("progress"), seen.get("elapsed", 0)
    if not steps or not steps["total"]:
        return f"preparing, {clock(elapsed)}"
    done, total = steps["done"], steps["total"]
    line = f"[{done}/{total}] {100 * done // total} %, {clock(elapsed)}"
    if 0 < done < total:
        line += f", about {clock(elapsed * (total - done) / done)} left"
    return line


def fetching(seen: Mapping[str, Any]) -> str:
    """Returns how far a download is: bytes, share, rate and time left, as far as they are known.

    Args:
        seen: `phase`, `kind` and `url` of the source, bytes that are `done` and their `total` or
            None, `rate` in bytes per second, `left` in seconds or None.
    """
    url = urlsplit(str(seen.get("url")))
    where = f"{url.netloc or url.path} ({seen.get('kind')})"
    phase, done, total = seen.get("phase"), int(seen.get("done") or 0), seen.get("total")
    if phase == "asking":
        return f"asking {where}"
    if phase in {"proving", "placing"}:
        return f"{amount(total or done)} are here and are proved"
    share = f" of {amount(total)} ({100 * done // total} %)" if total else ""
    words = [f"{amount(done)}{share} from {where}"]
    if seen.get("rate"):
        words.append(f"{amount(seen['rate'])}/s")
    if seen.get("left") is not None:
        words.append(f"about {clock(seen['left'])} left")
    return ", ".join(words)
