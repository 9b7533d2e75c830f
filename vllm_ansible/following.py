"""What actions share that follow work which goes on on a host by itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from vllm_ansible.progress import shown

display = Display()
# The work outlives a lost connection; so long the host may be out of reach, in seconds.
PATIENCE = 900
_AGAIN = 10
_BLINK = 0.2
_ENDING = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Interruption:
    """Whether the run is to end: someone pressed Ctrl-C, or the run's own process is gone."""

    number: int | None = None
    _parent: int = field(default_factory=os.getppid)

    @property
    def asked(self) -> bool:
        """Whether the run is to end."""
        # A run that was killed cannot tell its workers; they are then someone else's children.
        return self.number is not None or os.getppid() != self._parent

    def wait(self, seconds: float) -> None:
        """Sleeps so long, or until the run is to end."""
        until = time.monotonic() + seconds
        while not self.asked and (rest := until - time.monotonic()) > 0:
            time.sleep(min(rest, _BLINK))


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Holds the signals back that end a run, until the block has ended what it began on the host.

    Ansible tells its workers of a Ctrl-C by one signal and ends them by another right after it.
    When the block is left, the worker ends by the first one, as Ansible wants.
    """
    seen = Interruption()
    before = {number: signal.getsignal(number) for number in _ENDING}

    def remember(number: int, _: object) -> None:
        seen.number = seen.number or number

    for number in _ENDING:
        signal.signal(number, remember)
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if seen.number is not None:
            os.kill(os.getpid(), seen.number)


class Follower(ActionBase):  # type: ignore[misc]
    """An action that looks on while work goes on on the host, and says how far it is.

    Attributes:
        work: What lines of progress call the work.
    """

    work = ""
    _said = ""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Begins the action; what is returned is what its result begins with."""
        self._variables: dict[str, Any] = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        return result

    def _module(self, name: str, **changes: Any) -> dict[str, Any]:
        """Runs a module on the host with the task's own arguments and others.

        Raises:
            AnsibleConnectionFailure: The host is out of reach.
        """
        arguments = {**self._task.args, **changes}
        answer: dict[str, Any] = self._execute_module(
            name, module_args=arguments, task_vars=self._variables
        )
        return answer

    def _show(self, text: str) -> None:
        """Prints a line, unless it says what the last one said."""
        if text != self._said:
            host = str(self._variables["inventory_hostname"])
            display.display(shown(host, f"{self.work}: {text}"))
        self._said = text

    def _patiently(
        self, ask: Callable[[], dict[str, Any]], interrupted: Interruption | None = None
    ) -> dict[str, Any]:
        """Asks the host, also over a connection that is lost for a while.

        Args:
            ask: Asks.
            interrupted: When the run is to end, nobody waits any more.

        Raises:
            AnsibleConnectionFailure: The host was out of reach for too long.
        """
        begun = time.monotonic()
        while True:
            try:
                return ask()
            except AnsibleConnectionFailure:
                if time.monotonic() - begun > PATIENCE or (interrupted and interrupted.asked):
                    raise
                self._show("the host is out of reach; the work goes on there")
                self._connection.reset()
                (interrupted.wait if interrupted else time.sleep)(_AGAIN)
