"""What the modules ask of a URL before they use it."""

from __future__ import annotations

import ssl
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

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


def ask(url: str, timeout: float) -> str | None:
    """Return None when a GET of the URL is answered, else the reason.

    A directory of the host (file://) answers when it is there.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return None if Path(url2pathname(parts.path)).exists() else "no such file or directory"
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "vllm-ansible"})  # noqa: S310 - the inventory's URL
        with urllib.request.urlopen(request, timeout=timeout, context=tls_context()):  # noqa: S310
            return None
    except urllib.error.HTTPError as error:
        return f"status {error.code}"
    except Exception as error:  # noqa: BLE001 - whatever it is, the URL did not answer
        return str(getattr(error, "reason", error)) or type(error).__name__


def ask_all(urls: list[str], timeout: float) -> dict[str, str | None]:
    """Ask all URLs at once; one that hangs, in DNS too, costs no more than the bound."""
    found: dict[str, str | None] = dict.fromkeys(urls, f"no answer within {timeout:g} s")

    def one(url: str) -> None:
        found[url] = ask(url, timeout)

    threads = [threading.Thread(target=one, args=(url,), daemon=True) for url in found]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout + 0.5
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(found)
