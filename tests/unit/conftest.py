"""What all unit tests rely on."""

import importlib
import signal
from collections.abc import Callable
from typing import Any

import ansible.module_utils
import pytest

from vllm_ansible.paths import PROJECT

# Begun in the background, a program ignores Ctrl-C, and so would all that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def module_util(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A function that imports one of the project's module_utils as the modules do."""
    paths = [*ansible.module_utils.__path__, str(PROJECT / "module_utils")]
    monkeypatch.setattr(ansible.module_utils, "__path__", paths)
    return lambda name: importlib.import_module(f"ansible.module_utils.{name}")
