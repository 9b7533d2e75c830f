"""The kernel's settings are raised where they are too low, and set back by the last lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vllm_ansible.lab import kernel
from vllm_ansible.lab.errors import LabError
from vllm_ansible.lab.kernel import Setting

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr(kernel, "STATE_ROOT", tmp_path)
    one = Setting(tmp_path / "places", 1024, "places")
    one.path.write_text("128\n")
    monkeypatch.setattr(kernel, "SETTINGS", (one,))
    return one


def test_what_is_too_low_is_raised_once_and_set_back_by_the_last_lab(setting: Setting) -> None:
    assert kernel.ensure() == ["places"]
    assert setting.read() == 1024
    assert kernel.ensure() == []
    assert kernel.restore(["another"]) == []
    assert setting.read() == 1024
    assert kernel.restore([]) == ["places is 128 again"]
    assert setting.read() == 128
    assert kernel.restore([]) == []


def test_what_is_high_enough_is_left_alone(setting: Setting) -> None:
    setting.path.write_text("8192\n")
    assert kernel.ensure() == []
    assert kernel.restore([]) == []
    assert setting.read() == 8192


def test_what_was_before_is_not_forgotten_when_somebody_lowers_it_again(setting: Setting) -> None:
    kernel.ensure()
    setting.path.write_text("256\n")
    kernel.ensure()
    kernel.restore([])
    assert setting.read() == 128


def test_a_kernel_that_refuses_is_named(setting: Setting) -> None:
    kernel.ensure()
    setting.path.unlink()
    setting.path.mkdir()
    with pytest.raises(LabError, match="could not be set back to 128"):
        kernel.restore([])


def test_the_lab_needs_forwarding_and_places_for_many_machines() -> None:
    names = {one.path.name: one.least for one in kernel.SETTINGS}
    assert names == {"ip_forward": 1, "max_user_instances": 1024}
