"""What the plan makes of GPUs, by tables: recorded facts and words in, decisions out."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from vllm_ansible.data import project_data
from vllm_ansible.plan import HostFacts, PlanError, plan_host, unit
from vllm_ansible.schema import check_host

FACTS = Path(__file__).parent / "facts"
DATA = project_data()
ONE = {"name": "a", "model": "m"}
TWO = [ONE, {**ONE, "name": "b", "port": 8001}]
THREE = [*TWO, {**ONE, "name": "c", "port": 8002}]
OLD: dict[str, Any] = {"accept_vulnerable": True}
# What tests say here comes out of a vault.
SEALED = {f"vllm_instances[0].extra_args.{name}" for name in ("hf_token", "hf-token")}


def model(mib: int, heads: int | None) -> dict[str, Any]:
    files = {"model.safetensors": {"size": mib * 2**20, "sha256": "a" * 64}}
    source = {"kind": "git-lfs", "url": "https://git.example.com/m.git"}
    said = {"revision": "b" * 40, "sources": [source], "files": files}
    return {"m": {**said, "attention_heads": heads}}


def facts(name: str, **more: Any) -> HostFacts:
    record = json.loads((FACTS / f"{name}.json").read_text("utf-8"))
    return HostFacts.model_validate({**record, **more})


def plan(
    on: HostFacts, instances: list[Any] | None = None, mib: int = 1000, heads: int | None = None,
    **engine: Any,
) -> Any:  # fmt: skip
    words = {"vllm_engine": engine, "vllm_instances": instances or [ONE]}
    words["vllm_models"] = model(mib, heads)
    checked = check_host("h", words, DATA, SEALED)
    assert checked.words is not None, checked.problems
    return plan_host(checked.words, on, DATA, name="h")


def weaker(record: str, capability: str, **more: Any) -> HostFacts:
    """A record whose GPUs have another compute capability."""
    on = facts(record, **more)
    gpus = [gpu.model_copy(update={"compute_capability": capability}) for gpu in on.gpus]
    return on.model_copy(update={"gpus": gpus})


CHOICES = [
    # facts, words of vllm_engine, device, version, number format
    ("gpu-h200", {}, "gpu", "0.31.0", "auto"),
    ("gpu-h200", {"device": "gpu"}, "gpu", "0.31.0", "auto"),
    ("gpu-h200", {"device": "cpu"}, "cpu", "0.31.0", "auto"),
    ("gpu-h200", {"version": "0.32.0", "python": "3.11"}, "gpu", "0.32.0", "auto"),
    ("gpu-h200", {"version": "0.6.3.post1", **OLD}, "gpu", "0.6.3.post1", "auto"),
    ("gpu-a100", {}, "gpu", "0.31.0", "auto"),
    ("gpu-two-a100", {}, "gpu", "0.31.0", "auto"),
    ("gpu-t4", {}, "gpu", "0.31.0", "half"),
    ("gpu-mig-slice", {}, "gpu", "0.31.0", "auto"),
    ("gpu-driver-too-old", OLD, "gpu", "0.19.1", "auto"),
    ("gpu-driver-too-old", {"device": "gpu", **OLD}, "gpu", "0.19.1", "auto"),
    ("gpu-driver-too-old", {"device": "cpu"}, "cpu", "0.31.0", "float32"),
    ("gpu-driver-too-old", {"version": "0.5.0.post1", **OLD}, "gpu", "0.5.0.post1", "auto"),
    ("gpu-driver-too-old", {"version": "0.31.0"}, "cpu", "0.31.0", "float32"),
    ("gpu-no-driver", {}, "cpu", "0.31.0", "float32"),
    ("gpu-wedged", {}, "cpu", "0.31.0", "auto"),
    ("cpu-2-cores-avx2", {}, "cpu", "0.31.0", "float32"),
]


@pytest.mark.parametrize(("record", "engine", "device", "version", "dtype"), CHOICES)
def test_device_version_and_number_format(record, engine, device, version, dtype):
    made = plan(facts(record), **engine)
    assert (made.device, made.release.version) == (device, version)
    assert made.instances[0].config["dtype"] == dtype
    assert made.release.id.startswith(f"{version}-{device}-")


def test_a_gpu_below_the_defaults_capability_gets_the_newest_version_with_kernels_for_it():
    assert plan(weaker("gpu-a100", "7.0"), **OLD).release.version == "0.19.1"


def test_an_older_library_gets_the_newest_version_whose_wheel_loads():
    on = facts("gpu-driver-too-old", glibc="2.28")
    assert plan(on, **OLD).release.version == "0.11.0"


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ("gpu-driver-too-old", "needs branch 580"),
        ("gpu-no-driver", "10de:27b8 at 0000:31:00.0) but no NVIDIA driver"),
        ("gpu-wedged", "does not answer"),
    ],
)
def test_a_gpu_that_is_not_used_is_said_so(record, says):
    (notice,) = [n for n in plan(facts(record), version="0.31.0").notices if "although" in n]
    assert says in notice


def test_an_older_version_in_the_defaults_place_is_said_so():
    made = plan(facts("gpu-driver-too-old"), **OLD)
    assert any("0.19.1 instead of 0.31.0: driver 535.183.01" in one for one in made.notices)


REFUSALS = [
    # facts, words, what the error says
    ("gpu-driver-too-old", {}, "driver 535.183.01 is too old: vLLM 0.31.0's GPU wheel (CUDA 13.0)"),
    ("gpu-driver-too-old", {}, "branch 580 or newer. Update it, or say vllm_engine.accept_vuln"),
    ("gpu-driver-too-old", {}, "vLLM 0.19.1, the newest that this host can run, which carries CVE"),
    ("gpu-driver-too-old", {"device": "gpu", "version": "0.31.0"}, "needs branch 580 or newer"),
    ("gpu-no-driver", {"device": "gpu"}, "10de:27b8 at 0000:31:00.0) but no NVIDIA driver"),
    ("gpu-wedged", {"device": "gpu"}, "does not answer"),
    ("cpu-2-cores-avx2", {"device": "gpu"}, "no NVIDIA GPU"),
]


@pytest.mark.parametrize(("record", "engine", "says"), REFUSALS)
def test_what_the_host_lacks_for_its_gpu_is_said_with_figures(record, engine, says):
    with pytest.raises(PlanError) as error:
        plan(facts(record), **engine)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("capability", "engine", "says"),
    [
        ("7.0", {}, "needs compute capability 7.5 or newer, and NVIDIA A100-SXM4-80GB has 7.0"),
        ("10.0", {"version": "0.6.3.post1", **OLD}, "no newer than 9.x, and"),
        ("6.1", {"version": "0.11.0", **OLD}, "needs compute capability 7.0"),
    ],
)
def test_a_gpu_that_the_wheel_has_no_kernels_for_is_refused(capability, engine, says):
    with pytest.raises(PlanError) as error:
        plan(weaker("gpu-a100", capability), **{"device": "gpu", **engine})
    assert says in str(error.value)


def test_bfloat16_on_a_gpu_without_it_is_refused():
    with pytest.raises(PlanError, match=r"needs compute capability 8\.0, Tesla T4 has 7\.5"):
        plan(facts("gpu-t4"), [{**ONE, "dtype": "bfloat16"}])


@pytest.mark.parametrize(("version", "python"), [("0.5.0.post1", "3.12"), ("0.6.3.post1", "3.13")])
def test_a_python_that_has_no_wheel_is_refused(version, python):
    engine = {"version": version, "python": python, **OLD}
    checked = check_host("h", {"vllm_engine": engine, "vllm_instances": [ONE]}, DATA)
    assert any("vllm_engine.python" in str(problem) for problem in checked.problems)


def spanning(gpus: int, **more: Any) -> dict[str, Any]:
    return {**ONE, "extra_args": {"tensor_parallel_size": gpus}, **more}


DEVICES = [
    # facts, instances, CUDA_VISIBLE_DEVICES of each, gpu-memory-utilization of each
    ("gpu-h200", [ONE], [None], [None]),
    ("gpu-h200", TWO, [None, None], [0.46, 0.46]),
    ("gpu-two-a100", [ONE], ["0"], [None]),
    ("gpu-two-a100", TWO, ["0", "1"], [None, None]),
    ("gpu-two-a100", THREE, ["0", "1", "0"], [0.46, None, 0.46]),
    ("gpu-two-a100", [spanning(2)], ["0,1"], [None]),
    ("gpu-mig-slice", [ONE], [None], [None]),
    (
        "gpu-mig-slices",
        THREE,
        [
            "MIG-b0000000-2b3c-5d4e-8f60-718293a4b5c0",
            "MIG-b0000001-2b3c-5d4e-8f60-718293a4b5c1",
            "GPU-00000004-1f2e-4a3b-9c4d-5e6f708192a4",
        ],
        [None, None, None],
    ),
]


@pytest.mark.parametrize(("record", "instances", "visible", "shares"), DEVICES)
def test_instances_share_the_gpus(record, instances, visible, shares):
    made = plan(facts(record), instances)
    assert [i.environment.get("CUDA_VISIBLE_DEVICES") for i in made.instances] == visible
    assert [i.config.get("gpu-memory-utilization") for i in made.instances] == shares
    for one in made.instances:
        ordered = one.environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        assert ordered == ("CUDA_VISIBLE_DEVICES" in one.environment)


def test_a_gpu_that_cannot_be_used_keeps_its_number():
    on = facts("gpu-two-a100")
    first = on.gpus[0].model_copy(update={"name": "Quadro K620", "compute_capability": "5.0"})
    made = plan(on.model_copy(update={"gpus": [first, on.gpus[1]]}))
    assert made.instances[0].environment["CUDA_VISIBLE_DEVICES"] == "1"


def test_slices_that_vllm_cannot_be_told_to_take_are_left_and_named():
    # It takes the third slice's number, 2, for the number of a GPU, of which there are two.
    made = plan(facts("gpu-mig-slices"))
    assert any("1 of 3 MIG slices are left unused" in notice for notice in made.notices)


def test_a_version_that_knows_no_uuid_gets_the_whole_gpu():
    made = plan(facts("gpu-mig-slices"), version="0.19.1", **OLD)
    assert made.instances[0].environment["CUDA_VISIBLE_DEVICES"] == "1"


def test_mig_without_a_slice_is_refused():
    on = facts("gpu-mig-slice")
    bare = on.gpus[0].model_copy(update={"slices": []})
    with pytest.raises(PlanError, match="make one"):
        plan(on.model_copy(update={"gpus": [bare]}), device="gpu")


SHORT = [
    # facts, instances, MiB of weights, what the error says
    ("gpu-t4", [ONE], 14500, "14500 MiB for weights and 0 MiB of KV cache, and gets 14131 MiB"),
    ("gpu-t4", [{**ONE, "kv_cache_gib": 8}], 8000, "8192 MiB of KV cache, and gets 14131 MiB"),
    ("gpu-mig-slice", [ONE], 16000, "gets 15007 MiB (0.92 of NVIDIA H200 MIG 1g.18gb's 16312 MiB)"),
    ("gpu-h200", TWO, 70000, "gets 66134 MiB (0.46 of NVIDIA H200's 143771 MiB)"),
    ("gpu-two-a100", [spanning(2)], 160000, "80000 MiB for weights of 160000 MiB on 2 GPUs"),
    ("gpu-two-a100", [spanning(4)], 1000, "a spans 4 GPUs"),
    ("gpu-mig-slices", [spanning(2)], 1000, "cannot be joined"),
]


@pytest.mark.parametrize(("record", "instances", "mib", "says"), SHORT)
def test_a_model_that_the_gpu_cannot_hold_is_refused_with_figures(record, instances, mib, says):
    on = facts(record, disk_free_mib={"/srv": 10**7, "/opt": 10**6})
    with pytest.raises(PlanError) as error:
        plan(on, instances, mib)
    assert says in str(error.value)


ROOMY: dict[str, Any] = {"disk_free_mib": {"/srv": 10**7, "/opt": 10**6}}


WIDTHS = [
    # GPUs, instances, MiB of weights, attention heads, tensor and pipeline parallel size of each
    (2, [ONE], 1000, 28, [(None, None)]),
    (2, [ONE], 72000, 28, [(None, None)]),
    # They fit, and nothing would be left to compute with.
    (2, [ONE], 73000, 28, [(2, None)]),
    (2, [{**ONE, "kv_cache_gib": 8}], 66000, 28, [(2, None)]),
    (2, [ONE], 140000, 28, [(2, None)]),
    (2, [ONE], 140000, None, [(2, None)]),
    (2, [ONE], 140000, 9, [(None, 2)]),
    # Three would do, of which one stands idle: 28 heads do not go by 3.
    (4, [ONE], 200000, 28, [(4, None)]),
    (4, [ONE], 200000, 9, [(3, None)]),
    (4, [ONE], 200000, 14, [(2, 2)]),
    (4, TWO, 140000, 28, [(2, None), (2, None)]),
    # Who says something is asked for nothing.
    (4, [spanning(4)], 1000, 28, [(4, None)]),
]


@pytest.mark.parametrize(("gpus", "instances", "mib", "heads", "widths"), WIDTHS)
def test_as_many_gpus_as_it_takes(gpus, instances, mib, heads, widths):
    on = facts("gpu-two-a100", **ROOMY)
    on = on.model_copy(update={"gpus": on.gpus * (gpus // 2)})
    made = plan(on, instances, mib, heads)
    names = ("tensor-parallel-size", "pipeline-parallel-size")
    assert [tuple(one.config.get(name) for name in names) for one in made.instances] == widths
    taken = [one.environment["CUDA_VISIBLE_DEVICES"].split(",") for one in made.instances]
    assert [len(one) for one in taken] == [(a or 1) * (b or 1) for a, b in widths]
    assert len({number for one in taken for number in one}) == sum(map(len, taken))
    why = {one.subject: one for one in made.reasons}
    if gpus == 2 and heads == 9:
        assert "attention heads do not go by 2" in why["a.pipeline-parallel-size"].why
    if len(taken[0]) > 1 and instances != [spanning(4)]:
        assert f"on each of {len(taken[0])}" in why["a.tensor-parallel-size"].why


def test_two_gpus_hold_what_one_does_not():
    on = facts("gpu-two-a100", **ROOMY)
    assert plan(on, [spanning(2)], 140000).instances[0].config["tensor-parallel-size"] == 2


def test_an_instance_takes_no_gpu_from_another():
    with pytest.raises(PlanError, match="b needs 140000 MiB for weights"):
        plan(facts("gpu-two-a100", **ROOMY), [{**ONE, "kv_cache_gib": 1}, TWO[1]], 140000)


def test_the_kv_cache_asked_for_is_told_to_the_engine():
    made = plan(facts("gpu-h200"), [{**ONE, "kv_cache_gib": 4}])
    assert made.instances[0].config["kv-cache-memory-bytes"] == 4 * 2**30


def test_a_cpu_instance_needs_nothing_beside_the_template():
    made = plan(facts("cpu-2-cores-avx2"))
    assert made.instances[0].drop_in == []
    assert not any(".service.d/" in f.path and "vllm@" in f.path for f in made.managed.files)


def test_the_unit_of_a_gpu_instance_opens_the_gpu_and_nothing_else():
    made = plan(facts("gpu-h200"))
    lines = made.instances[0].drop_in
    assert "PrivateDevices=false" in lines
    assert [line for line in lines if line.startswith("DeviceAllow=")] == [
        "DeviceAllow=char-nvidia* rw"
    ]
    assert not any(
        line.startswith(("DevicePolicy=", "ExecStart=", "PrivateNetwork=")) for line in lines
    )
    path = "/etc/systemd/system/vllm@a.service.d/vllm.conf"
    assert path in [file.path for file in made.managed.files]


@pytest.mark.parametrize("version", ["0.5.0.post1", "0.6.3.post1"])
def test_a_version_without_socket_and_file_is_started_with_arguments_on_loopback(version):
    made = plan(facts("gpu-t4"), [{**ONE, "served_names": ["m", "n"]}], version=version, **OLD)
    one = made.instances[0]
    assert (one.socket, one.address) == (None, "127.0.0.1:18000")
    assert {"PrivateNetwork=false", "IPAddressAllow=localhost"} <= set(one.drop_in)
    reset, start = [line for line in one.drop_in if line.startswith("ExecStart=")]
    assert reset == "ExecStart="
    argv = shlex.split(start.removeprefix("ExecStart="))
    assert argv[:3] == ["/opt/vllm/current/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    assert argv[argv.index("--model") + 1] == one.model_path
    assert argv[argv.index("--served-model-name") + 1 :][:2] == ["m", "n"]
    assert argv[argv.index("--port") + 1] == "18000"
    assert argv[argv.index("--dtype") + 1] == "half"
    assert "--disable-log-requests" in argv
    assert ("--disable-uvicorn-access-log" in argv, "--uvicorn-log-level" in argv) == (False, True)


def test_a_secret_never_becomes_an_argument():
    words = [{**ONE, "extra_args": {"hf_token": "hunter2"}}]
    with pytest.raises(PlanError) as error:
        plan(facts("gpu-t4"), words, version="0.6.3.post1", **OLD)
    assert "hf_token looks like a secret" in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "word", ["plain", "two words", 'say "hi"', "back\\slash", "a;b", "don't", '{"a": 1}', ""]
)
def test_a_word_of_the_command_arrives_as_it_was(word):
    assert shlex.split(unit.quoted(word)) == [word]


def test_what_systemd_would_replace_is_doubled():
    assert unit.quoted("100%") == '"100%%"'
    assert unit.quoted("$HOME") == '"$$HOME"'


def test_switches_lists_and_mappings_become_arguments():
    config = {"b": True, "a": ["x", "y"], "c": False, "d": {"k": 1}, "e": 0.5}
    assert unit.words(config) == ["--a", "x", "y", "--b", "--d", '{"k": 1}', "--e", "0.5"]


FLAGS = [
    # version, flags that it has, flags that it has not
    ("0.5.0.post1", {"disable-log-requests"}, {"uds", "disable-frontend-multiprocessing"}),
    ("0.6.3.post1", {"disable-frontend-multiprocessing"}, {"uds", "disable-uvicorn-access-log"}),
    ("0.11.0", {"uds", "disable-log-requests", "kv-cache-memory-bytes"}, {"shutdown-timeout"}),
    ("0.19.1", {"uds", "shutdown-timeout"}, {"disable-log-requests"}),
    ("0.31.0", {"uds", "shutdown-timeout"}, {"disable-frontend-multiprocessing"}),
    ("0.33.0", {"uds", "shutdown-timeout"}, {"disable-frontend-multiprocessing"}),
]


@pytest.mark.parametrize(("version", "has", "lacks"), FLAGS)
def test_each_version_is_given_the_flags_that_it_has(version, has, lacks):
    known = DATA.versions.knows_flag
    assert {flag for flag in has | lacks if known(version, flag)} == has
