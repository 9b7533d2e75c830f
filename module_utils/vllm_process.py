"""Run programs with a bound on time, English messages, and no questions asked."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ansible.module_utils.vllm_errors import HostError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Where distributions keep the system's certificates: Debian and Ubuntu, then Red Hat's family.
CA_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")


class Finished(NamedTuple):
    """How a program ended: exit status, standard output, standard error."""

    status: int
    output: str
    errors: str

    def tail(self, lines: int) -> str:
        """Return the last lines of both streams, errors last."""
        text = "\n".join(part for part in (self.output.strip(), self.errors.strip()) if part)
        return "\n".join(text.splitlines()[-lines:])


def system_ca_file() -> str | None:
    """Return the system's file of certificates; None where there is none."""
    return next((name for name in CA_FILES if Path(name).is_file()), None)


def ca_environment() -> dict[str, str]:
    """Point clients that bring their own certificates at the system's, where not set already."""
    bundle = system_ca_file()
    return {name: bundle for name in CA_VARIABLES if bundle and not os.environ.get(name)}


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    pass_fds: Sequence[int] = (),
) -> Finished:
    """Run a program to its end.

    Args:
        argv: the program and its arguments; no shell reads them.
        timeout: seconds after which it is ended, with all that it started.
        env: variables set besides the inherited ones and the C locale.
        cwd: directory to run in.
        stdin: text for its standard input; nothing when None.
        pass_fds: open files that the program inherits.

    Raises:
        HostError: the program is not there, or did not end in time.
    """
    full = {**os.environ, "LC_ALL": "C", "LANG": "C", "LANGUAGE": "C", **(env or {})}
    try:
        process = subprocess.Popen(
            list(argv),
            env=full,
            cwd=cwd,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except (FileNotFoundError, PermissionError) as error:
        raise HostError(
            f"{argv[0]} cannot be run: {error.strerror}; install it first", program=argv[0]
        ) from error
    with process:
        try:
            output, errors = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            tail = Finished(-1, output, errors).tail(40)
            raise HostError(
                f"{argv[0]} did not end within {timeout:g} s and was stopped. It said:\n{tail}",
                program=argv[0],
                timeout=timeout,
            ) from error
        except BaseException:  # whoever ends us means what we started too
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return Finished(process.returncode, output, errors)
