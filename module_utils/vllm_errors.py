"""The one error that the project's modules raise and turn into a failed task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule


class HostError(Exception):
    """A thing on the host is not as it must be.

    Args:
        message: names the thing, what was found, and the way out.
        details: structured facts for the task's result; never a secret.
    """

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


def conclude(
    module: AnsibleModule, work: Callable[[AnsibleModule], dict[str, Any]], otherwise: str
) -> None:
    """Do a module's work and end with its result, or with a failure that a person can read.

    Args:
        module: the module.
        work: takes the module and returns its result.
        otherwise: what could not be done, for errors of the operating system that nobody foresaw.
    """
    try:
        result = work(module)
    except HostError as error:
        module.fail_json(msg=error.message, **error.details)
    except OSError as error:
        module.fail_json(msg=f"{otherwise}: {error}")
    module.exit_json(**result)
