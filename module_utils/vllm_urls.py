"""What the modules ask of a URL before they use it."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_process import system_ca_file

if TYPE_CHECKING:
    from collections.abc import Iterable


def refuse_credentials(urls: Iterable[str], option: str) -> None:
    """Refuse URLs that carry a user or a password: they would show in results and process lists.

    Raises:
        HostError: naming the option and the host, and never the URL.
    """
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("ssh", "git+ssh") and (parts.username or parts.password):
            raise HostError(
                f"{option}: the URL of {parts.hostname} carries a user or password; leave them out"
                " (use a netrc file or a mirror that needs none)"
            )


def tls_context() -> ssl.SSLContext:
    """Return a context that trusts what the system trusts, whichever Python runs this."""
    context = ssl.create_default_context()
    bundle = system_ca_file()
    if bundle:
        context.load_verify_locations(cafile=bundle)
    return context
