"""A public address of the page, by gradio's tunnel. Only where it was asked for."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

from gradio import networking, tunneling


async def share(door: str) -> str:
    """Open a tunnel to the page's door, and return what is said of it.

    Args:
        door: Address and port of the door, on this host.
    """
    return await asyncio.to_thread(_share, door)


def _share(door: str) -> str:
    # gradio would fetch the tunnel's program; here it has been put in its place, or there is none.
    program = Path(tunneling.BINARY_PATH)
    if not program.is_file():
        return f"no public link: {program} is missing"
    host, _, port = door.rpartition(":")
    token = secrets.token_urlsafe(32)
    try:
        address = networking.setup_tunnel(host.strip("[]"), int(port), token, None, None)
    except (OSError, ValueError, RuntimeError) as error:
        return f"no public link: {error}"
    return f"public link: {address}"
