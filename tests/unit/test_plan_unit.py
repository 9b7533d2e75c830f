"""What an instance's unit says beyond the template: decided from its words and its host."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.test_plan_gpu import ONE, facts, plan

GIB = 1024
CPU: dict[str, Any] = {"device": "cpu"}
SECRET = {"hf-token": "hunter2"}
ROOMY: dict[str, Any] = {"memory_mib": 64 * GIB, "disk_free_mib": {"/opt": 10**6, "/srv": 10**6}}


def lines(instance: dict[str, Any], **more: Any) -> list[str]:
    made = plan(facts("cpu-16-cores-avx512", **ROOMY), [instance], **CPU, **more)
    found: list[str] = made.instances[0].drop_in
    return found


def test_a_cpu_instance_differs_from_the_template_by_nothing():
    assert lines(ONE) == []


def test_no_unit_depends_on_its_neighbours():
    second = {**ONE, "name": "b", "port": 8001, "kv_cache_gib": 8}
    made = plan(facts("cpu-16-cores-avx512", **ROOMY), [ONE, second], **CPU)
    assert [one.drop_in for one in made.instances] == [[], []]


@pytest.mark.parametrize(("seconds", "line"), [(600, None), (715, None), (716, 3605), (1800, 9025)])
def test_starts_that_fail_late_are_counted_over_a_longer_time(seconds, line):
    found = lines({**ONE, "ready_timeout": seconds})
    if line is None:
        assert "[Unit]" not in found
    else:
        # The section's name, as the lines before it belong to [Service].
        assert found[-2:] == ["[Unit]", f"StartLimitIntervalSec={line}"]


def test_a_longer_drain_is_waited_for():
    assert not any(line.startswith("TimeoutStopSec=") for line in lines(ONE))
    longer = lines({**ONE, "extra_args": {"shutdown-timeout": 300}})
    assert "TimeoutStopSec=330" in longer


@pytest.mark.parametrize("record", ["gpu-h200", "gpu-two-a100", "gpu-mig-slice", "gpu-mig-slices"])
def test_every_gpu_instance_gets_the_drivers_devices_and_no_others(record):
    made = plan(facts(record, disk_free_mib={"/srv": 10**7, "/opt": 10**6}), [ONE])
    found = made.instances[0].drop_in
    assert [line for line in found if line.startswith("Device")] == ["DeviceAllow=char-nvidia* rw"]


def test_a_secret_option_makes_the_configuration_a_secret_file():
    made = plan(facts("cpu-16-cores-avx512", **ROOMY), [{**ONE, "extra_args": SECRET}], **CPU)
    assert made.instances[0].secret_options == ["hf-token"]
    files = {file.path: file.secret for file in made.managed.files}
    assert files["/etc/vllm/a.yaml"]
    # Without one, its checksum is of use and tells nothing.
    open_one = plan(facts("cpu-16-cores-avx512", **ROOMY), [ONE], **CPU)
    assert not {file.path: file.secret for file in open_one.managed.files}["/etc/vllm/a.yaml"]
