"""A public address of the page, by gradio's tunnel. Only where it was asked for."""

from __future__ import annotations

import asyncio
import secrets

from gradio import networking


async def share(port: int) -> str:
    """Open a tunnel to a loopback port, and return what is said of it.

    The tunnel's program is where gradio looks for it before it would fetch it.

    Args:
        port: The port of the door.
    """
    try:
        address = await asyncio.to_thread(
            networking.setup_tunnel, "127.0.0.1", port, secrets.token_urlsafe(32), None, None
        )
    except (OSError, ValueError, RuntimeError) as error:
        return f"no public link: {error}"
    return f"public link: {address}"
