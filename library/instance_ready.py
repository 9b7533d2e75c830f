#!/usr/bin/python
"""Wait until an engine answers, and tell at once why it does not."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: instance_ready
short_description: Wait until an instance of the engine is ready
description:
  - Asks C(/health) over the instance's Unix socket, or on its loopback address, and systemd about
    its unit, until it is ready.
  - Fails at once when the unit is not there, has failed, is stopped, or keeps restarting; the
    message has the last errors of its journal and ends with the journal's last lines.
options:
  unit:
    description: The systemd unit.
    type: str
    required: true
  socket:
    description: The engine's Unix socket. This or O(address) must be given.
    type: path
    required: false
  address:
    description: Address and port of an engine that has no socket, such as C(127.0.0.1:18000).
    type: str
    required: false
  timeout:
    description: Seconds to wait.
    type: int
    required: false
    default: 600
  interval:
    description: Seconds between two looks.
    type: float
    required: false
    default: 1.0
  max_restarts:
    description: How often the unit may restart while this waits.
    type: int
    required: false
    default: 1
  journal_lines:
    description: Lines of the journal in the message of a failure.
    type: int
    required: false
    default: 40
attributes:
  check_mode:
    support: full
    description: Looks once, does not wait, and says in RV(ready) what it saw.
  diff_mode:
    support: none
    description: Nothing is changed.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The instance answers
  instance_ready:
    unit: vllm@smollm2-135m.service
    socket: /run/vllm/smollm2-135m/api.sock
    timeout: 600
"""

RETURN = r"""
unit:
  description: The unit that was asked about.
  returned: success
  type: str
ready:
  description: Whether C(/health) was answered with status 200.
  returned: always
  type: bool
seconds:
  description: Seconds from the call until the instance was ready.
  returned: success
  type: float
restarts:
  description: How often the unit restarted meanwhile.
  returned: always
  type: int
health:
  description: The last answer to C(/health), or why there was none.
  returned: always
  type: str
state:
  description: Properties of the unit as systemd tells them.
  returned: always
  type: dict
errors:
  description: The last errors in the journal, each once, wherever above its end they are.
  returned: failure
  type: list
  elements: str
journal:
  description: The journal's last lines.
  returned: failure
  type: list
  elements: str
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_health import HEALTHY, health
from ansible.module_utils.vllm_process import run
from ansible.module_utils.vllm_raised import raised

PROPERTIES = "LoadState,ActiveState,SubState,Result,NRestarts,ExecMainCode,ExecMainStatus"
# A unit is inactive for a moment between a start that does not block and its beginning.
GRACE = 5.0
# Lines of the journal in which errors are looked for: two attempts to start, with their tracebacks.
LOOKED_AT = 1000
ERRORS = 3


def unit_state(unit: str) -> dict[str, str]:
    """Return the unit's properties.

    Raises:
        HostError: systemd does not answer.
    """
    result = run(["systemctl", "show", f"--property={PROPERTIES}", unit], timeout=30)
    if result.status != 0:
        raise HostError(f"systemd does not tell about {unit}: {result.tail(5)}")
    pairs = (line.partition("=") for line in result.output.splitlines())
    return {name: value for name, _, value in pairs if name}


def journal(unit: str, lines: int) -> list[str]:
    """Return the last lines of the unit's journal, or why they cannot be had."""
    argv = ["journalctl", f"--unit={unit}", f"--lines={lines}", "--no-pager", "--output=short-iso"]
    try:
        found: list[str] = run(argv, timeout=30).tail(lines).splitlines()
    except HostError as error:
        return [error.message]
    return found


def death(state: dict[str, str], restarts: int, waited: float, limit: int) -> str | None:
    """Return why waiting longer is of no use; None while there is hope."""
    if state.get("LoadState") != "loaded":
        return f"it is {state.get('LoadState')}; is its unit file there, and systemd reloaded?"
    active = state.get("ActiveState")
    if active == "failed":
        return f"it failed ({state.get('Result')}, exit status {state.get('ExecMainStatus')})"
    if restarts > limit:
        return f"it restarted {restarts} times (last exit status {state.get('ExecMainStatus')})"
    if active == "inactive" and waited > GRACE:
        return "it is stopped; start it first"
    return None


class Watch:
    """The waiting for one instance."""

    def __init__(self, params: dict[str, Any]) -> None:
        """Take the first look, by which restarts are counted."""
        self.params, self.began = params, time.monotonic()
        self.state = unit_state(params["unit"])
        self.before = self.count()
        self.health = "not asked yet"

    def count(self) -> int:
        """Return the unit's restarts since it was last started by hand."""
        text = self.state.get("NRestarts", "0")
        return int(text) if text.isdigit() else 0

    def restarts(self) -> int:
        """Return the restarts since the first look."""
        return max(0, self.count() - self.before)

    def waited(self) -> float:
        """Return the seconds since the first look."""
        return time.monotonic() - self.began

    def look(self) -> bool:
        """Look once; tell whether the instance is ready.

        Raises:
            HostError: it will not become ready.
        """
        self.state = unit_state(self.params["unit"])
        self.health = health(self.params["socket"], self.params["address"])
        if self.health == HEALTHY and self.state.get("ActiveState") == "active":
            return True
        limit = self.params["max_restarts"]
        reason = death(self.state, self.restarts(), self.waited(), limit)
        if reason is None and self.waited() >= self.params["timeout"]:
            reason = f"it was not ready within {self.params['timeout']} s (/health: {self.health})"
        if reason is not None:
            raise self.failure(reason)
        return False

    def failure(self, reason: str) -> HostError:
        """Return the error, with the journal's last words."""
        unit = self.params["unit"]
        lines = journal(unit, LOOKED_AT)
        errors = raised(lines)[-ERRORS:]
        last = lines[-self.params["journal_lines"] :]
        told = ["Errors in its journal:", *errors] if errors else []
        text = "\n".join(
            [f"{unit} is not ready: {reason}.", *told, "The end of its journal:", *last]
        )
        return HostError(
            text,
            journal=last,
            errors=errors,
            **self.result(ready=False),
        )

    def result(self, *, ready: bool) -> dict[str, Any]:
        """Return what the task returns."""
        return {
            "ready": ready,
            "seconds": round(self.waited(), 1),
            "restarts": self.restarts(),
            "health": self.health,
            "state": self.state,
        }


def wait(module: AnsibleModule) -> dict[str, Any]:
    """Wait until the instance is ready, or look once in check mode."""
    watch = Watch(module.params)
    while True:
        try:
            ready = watch.look()
        except HostError:
            if not module.check_mode:
                raise
            ready = False
        if ready or module.check_mode:
            return watch.result(ready=ready)
        time.sleep(module.params["interval"])


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str", "required": True},
            "socket": {"type": "path"},
            "address": {"type": "str"},
            "timeout": {"type": "int", "default": 600},
            "interval": {"type": "float", "default": 1.0},
            "max_restarts": {"type": "int", "default": 1},
            "journal_lines": {"type": "int", "default": 40},
        },
        required_one_of=[["socket", "address"]],
        mutually_exclusive=[["socket", "address"]],
        supports_check_mode=True,
    )
    try:
        result = wait(module)
    except HostError as error:
        module.fail_json(msg=error.message, **error.details)
    module.exit_json(changed=False, unit=module.params["unit"], **result)


if __name__ == "__main__":
    main()
