"""How gunicorn runs proxpi. Its address is given by the unit."""

from collections.abc import Callable
from typing import Any

# proxpi keeps what it has read of an index in memory: one process, many threads.
worker_class = "gthread"
workers = 1
threads = 32
# Seconds: the listing of a very large index takes its time.
timeout = 180
# The heartbeat is no reason to write to a disk.
worker_tmp_dir = "/dev/shm"  # noqa: S108 - a file without a name, made by gunicorn
control_socket_disable = True


def upstream_status(error: Exception) -> int:
    """Return the status for the index's clients: what the index itself said, where it matters.

    proxpi answers 500 to everything that goes wrong. A client must tell an index that does not have
    a package (404: ask the next one) from one that does not answer; nginx must know when to serve
    what it kept.

    Args:
        error: what `requests` raised.
    """
    response = getattr(error, "response", None)
    if response is None:
        return 504
    if response.status_code in (404, 410):
        return 404
    return int(response.status_code) if response.status_code in (403, 429) else 502


def asking_for_the_page_itself(get: Callable[..., Any]) -> Callable[..., Any]:
    """Return a session's `get` that asks as PEP 503 writes it, and raises on a refusal.

    proxpi 1.3.1 leaves out the last slash. An index that does not redirect then has no such page,
    or its relative links lead elsewhere; and to a refusal proxpi answers by reading the whole list
    of projects, which takes more than a minute where there are hundreds of thousands.

    Args:
        get: the session's own.
    """

    def ask(url: str, **words: Any) -> Any:
        answer = get(url if url.endswith("/") else f"{url}/", **words)
        answer.raise_for_status()
        return answer

    return ask


def post_worker_init(worker: Any) -> None:
    """Let proxpi ask for pages by their own names, and answer with the status of the index."""
    # Modules of proxpi's environment, and only of it.
    import requests
    from proxpi.server import cache

    def answer(error: Exception) -> tuple[str, int]:
        worker.log.warning("%s", error)
        return f"The index: {error}\n", upstream_status(error)

    # With PROXPI_CACHE_SIZE=0 the session fetches nothing but pages.
    session = cache.root_cache.session
    session.get = asking_for_the_page_itself(session.get)
    worker.wsgi.register_error_handler(requests.RequestException, answer)
