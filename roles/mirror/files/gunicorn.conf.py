"""How gunicorn runs proxpi. Its address is given by the unit."""

# proxpi keeps what it has read of an index in memory: one process, many threads.
worker_class = "gthread"
workers = 1
threads = 32
# Seconds: the listing of a very large index takes its time.
timeout = 180
# The heartbeat is no reason to write to a disk.
worker_tmp_dir = "/dev/shm"  # noqa: S108 - a file without a name, made by gunicorn
control_socket_disable = True


def upstream_status(error):
    """Return the status for the index's clients: what the index itself said, where it matters.

    proxpi answers 500 to everything that goes wrong. A client must tell an index that does not have a
    package (404: ask the next one) from one that does not answer; nginx must know when to serve what it kept.

    Args:
        error: what `requests` raised.
    """
    response = getattr(error, "response", None)
    if response is None:
        return 504
    if response.status_code in (404, 410):
        return 404
    return response.status_code if response.status_code in (403, 429) else 502


def post_worker_init(worker):
    """Let proxpi answer with the status that the index had."""
    import requests  # noqa: PLC0415 - of proxpi's environment

    def answer(error):
        worker.log.warning("%s", error)
        return f"The index: {error}\n", upstream_status(error)

    worker.wsgi.register_error_handler(requests.RequestException, answer)
