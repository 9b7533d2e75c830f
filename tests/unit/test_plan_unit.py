"""What an instance's unit says beyond the template: decided from its words and its host."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.test_plan_gpu import ONE, facts, plan

GIB = 1024
SYSTEM = 1024
ENGINE = 2048
CPU: dict[str, Any] = {"device": "cpu"}
SECRET = {"hf-token": "hunter2"}
ROOMY: dict[str, Any] = {"memory_mib": 64 * GIB, "disk_free_mib": {"/opt": 10**6, "/srv": 10**6}}


def lines(instance: dict[str, Any], **more: Any) -> list[str]:
    made = plan(facts("cpu-16-cores-avx512", **ROOMY), [instance], **CPU, **more)
    found: list[str] = made.instances[0].drop_in
    return found


def limit(lines: list[str]) -> int:
    """The most memory of an instance in MiB."""
    (line,) = [one for one in lines if one.startswith("MemoryMax=")]
    return int(line.removeprefix("MemoryMax=").removesuffix("M"))


def test_a_cpu_instance_differs_from_the_template_by_its_memory_alone():
    (only,) = lines(ONE)
    assert limit([only]) == 64 * GIB - SYSTEM


def test_an_instance_may_take_what_its_neighbours_do_not_need():
    second = {**ONE, "name": "b", "port": 8001, "kv_cache_gib": 8}
    chosen = [{**ONE, "kv_cache_gib": 4}, second]
    made = plan(facts("cpu-16-cores-avx512", **ROOMY), chosen, mib=1000, **CPU)
    found = [limit(one.drop_in) for one in made.instances]
    rest = 64 * GIB - SYSTEM
    assert found == [
        (rest - (ENGINE + 1000 + 8 * GIB)) // 256 * 256,
        (rest - (ENGINE + 1000 + 4 * GIB)) // 256 * 256,
    ]
    assert any(reason.subject == "a.MemoryMax" for reason in made.reasons)


@pytest.mark.parametrize("taken", [0, 3, 40])
def test_a_kernel_that_takes_a_little_more_for_itself_restarts_nothing(taken):
    on = facts("cpu-16-cores-avx512", **{**ROOMY, "memory_mib": 64 * GIB - 130 - taken})
    assert limit(plan(on, [ONE], **CPU).instances[0].drop_in) == 63 * GIB - 256


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
    # What a GPU's engine takes of the host's memory is not known, so nothing is limited.
    assert not any(line.startswith("MemoryMax=") for line in found)


def test_a_secret_option_makes_the_configuration_a_secret_file():
    made = plan(facts("cpu-16-cores-avx512", **ROOMY), [{**ONE, "extra_args": SECRET}], **CPU)
    assert made.instances[0].secret_options == ["hf-token"]
    files = {file.path: file.secret for file in made.managed.files}
    assert files["/etc/vllm/a.yaml"]
    # Without one, its checksum is of use and tells nothing.
    open_one = plan(facts("cpu-16-cores-avx512", **ROOMY), [ONE], **CPU)
    assert not {file.path: file.secret for file in open_one.managed.files}["/etc/vllm/a.yaml"]
