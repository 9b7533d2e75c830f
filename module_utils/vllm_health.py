"""Ask a service on this host whether it is well."""

from __future__ import annotations

import http.client
import socket
from typing import Any

HEALTHY = "200"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        """Prepare a connection to the socket at `path`; `timeout` in seconds."""
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock: Any = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def health(
    path: str | None, address: str | None, *, route: str = "/health", timeout: float = 5
) -> str:
    """Return the status of a route, or why there is no answer.

    Args:
        path: the service's Unix socket.
        address: else its address and port.
        route: what is asked.
        timeout: seconds without an answer.
    """
    connection = (
        UnixConnection(path, timeout)
        if path
        else http.client.HTTPConnection(str(address), timeout=timeout)
    )
    try:
        connection.request("GET", route)
        return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
