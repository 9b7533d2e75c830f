"""The plan's decisions, by tables: words and recorded facts in, decisions out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_ansible.data import Data, project_data
from vllm_ansible.paths import PROJECT
from vllm_ansible.plan import HostFacts, PlanError, plan_host
from vllm_ansible.plan.difference import differences
from vllm_ansible.plan.kernels import ZEN
from vllm_ansible.plan.probe import probe_urls
from vllm_ansible.plan.serving import door_address
from vllm_ansible.schema import check_host

FACTS = Path(__file__).parent / "facts"


def unsized(data: Data) -> Data:
    """The data without what its models weigh: a test that this matters to says it itself."""
    light = {
        name: model.model_copy(update={"files": {}, "size_bytes": None})
        for name, model in data.models.items()
    }
    return data.model_copy(update={"models": light})


DATA = unsized(project_data())
ONE = {"name": "a", "model": "qwen2.5-0.5b-instruct"}
TWO = [ONE, {**ONE, "name": "b", "port": 8001}]
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


def facts(name: str = "cpu-2-cores-avx2", **more: Any) -> HostFacts:
    record = json.loads((FACTS / f"{name}.json").read_text("utf-8"))
    return HostFacts.model_validate({**record, **more})


def plan(
    on: HostFacts | None = None, fingerprint: str | None = None, data: Data = DATA, **words: Any
):
    words.setdefault("vllm_instances", [ONE])
    checked = check_host("h", words, data)
    assert checked.words is not None, checked.problems
    return plan_host(checked.words, on or facts(), data, fingerprint, name="h")


def sized(mib: int, kind: str = "git-lfs") -> dict[str, Any]:
    files = {"model.safetensors": {"size": mib * 2**20, "sha256": "a" * 64}}
    source = {"kind": kind, "url": "https://git.example.com/m.git"}
    return {"m": {"revision": "b" * 40, "sources": [source], "files": files}}


SHORTAGES = [
    # facts, what differs in them, words, what the error says
    ("cpu-2-cores-avx2", {"cpu_flags": ["sse4_2"]}, {}, "no AVX2"),
    ("cpu-2-cores-avx2", {"glibc": "2.27"}, {}, "glibc 2.27"),
    ("cpu-2-cores-avx2", {"systemd": 219}, {}, "systemd 219"),
    ("cpu-2-cores-avx2", {"architecture": "riscv64"}, {}, "riscv64"),
    ("cpu-2-cores-avx2", {"architecture": "aarch64"}, {}, "x86_64 only"),
    ("cpu-2-cores-avx2", {"memory_mib": 3000}, {}, "need 4096 MiB"),
    (
        "cpu-2-cores-avx2",
        {},
        {"vllm_instances": [{**ONE, "kv_cache_gib": 8}]},
        "need 11264 MiB (weights",
    ),
    ("cpu-2-cores-avx2", {"disk_free_mib": {"/opt": 100}}, {}, "need 8000 MiB in /opt, 100 are"),
    (
        "cpu-2-cores-avx2",
        {"disk_free_mib": {"/srv": 1999}},
        {"vllm_models": sized(1000), "vllm_instances": [{**ONE, "model": "m"}]},
        "m need 2000 MiB in /srv",
    ),
    (
        # From a mirror's plain files a model takes its size once.
        "cpu-2-cores-avx2",
        {"disk_free_mib": {"/srv": 999}},
        {"vllm_models": sized(1000, "files"), "vllm_instances": [{**ONE, "model": "m"}]},
        "m need 1000 MiB in /srv",
    ),
]


def test_a_user_without_an_account_is_told_before_anything_is_changed():
    on = facts(missing_users=["bob"])
    assert plan(on).miniconda.users == []
    with pytest.raises(PlanError) as error:
        plan(on, vllm_conda_users=["alice", "bob"])
    assert "vllm_conda_users names bob, who has no account" in str(error.value)


@pytest.mark.parametrize(("record", "differs", "words", "says"), SHORTAGES)
def test_a_host_that_cannot_take_it_is_refused_with_figures(record, differs, words, says):
    with pytest.raises(PlanError) as error:
        plan(facts(record, **differs), **words)
    assert says in str(error.value)
    assert str(error.value).startswith("h: ")


def test_every_shortage_is_told_at_once():
    with pytest.raises(PlanError) as error:
        plan(facts(memory_mib=100, glibc="2.17", cpu_flags=[]))
    assert len(error.value.problems) == 3


MEMORY = [
    # memory in MiB, instances, GiB of KV cache for each
    (7941, [ONE], ["2"]),
    (24000, [ONE], ["10"]),
    (512000, [ONE], ["16"]),
    (24000, TWO, ["4", "4"]),
    (24000, [{**ONE, "kv_cache_gib": 1}, TWO[1]], ["1", "8"]),
]


@pytest.mark.parametrize(("memory", "instances", "spaces"), MEMORY)
def test_the_kv_cache_is_always_set_and_fits(memory, instances, spaces):
    made = plan(facts(memory_mib=memory), vllm_instances=instances)
    assert [i.environment["VLLM_CPU_KVCACHE_SPACE"] for i in made.instances] == spaces


def test_the_weights_count_in_the_memory():
    words: dict[str, Any] = {
        "vllm_models": sized(4000),
        "vllm_instances": [{**ONE, "model": "m"}],
    }
    with pytest.raises(PlanError, match="need 8096 MiB"):
        plan(**words)


CORES = [(4, [ONE], ["auto"]), (16, TWO, ["0-7", "8-15"]), (2, TWO, ["0", "1"])]
CORES += [(1, TWO, ["nobind", "nobind"])]


@pytest.mark.parametrize(("cores", "instances", "bound"), CORES)
def test_instances_do_not_share_cores(cores, instances, bound):
    made = plan(facts(cores=cores, memory_mib=32000), vllm_instances=instances)
    assert [i.environment["VLLM_CPU_OMP_THREADS_BIND"] for i in made.instances] == bound


THREE = [*TWO, {**ONE, "name": "c", "port": 8002}]
FOUR_EACH = [[[n] for n in range(4)], [[n] for n in range(4, 8)]]
# Two threads on each core, numbered as most kernels do.
TWO_THREADS = [[[0, 4], [1, 5]], [[2, 6], [3, 7]]]
NODES = [
    # processors by NUMA node and core, instances, what each is bound to
    (FOUR_EACH, [ONE], ["auto"]),
    (FOUR_EACH, TWO, ["0-3", "4-7"]),
    (FOUR_EACH, THREE, ["0-1", "4-7", "2-3"]),
    (FOUR_EACH, [{**ONE, "cores": 3}, TWO[1]], ["0-2", "4-7"]),
    (FOUR_EACH, [{**ONE, "cores": 6}, TWO[1]], ["0-5", "6-7"]),
    (TWO_THREADS, TWO, ["4-5", "6-7"]),
    (TWO_THREADS[:1], TWO, ["4", "5"]),
    ([[[0, 1], [2, 3], [8, 9]]], [{**ONE, "cores": 3}], ["1,3,9"]),
]


@pytest.mark.parametrize(("nodes", "instances", "bound"), NODES)
def test_instances_share_neither_a_core_nor_if_they_can_a_numa_node(nodes, instances, bound):
    count = sum(len(core) for node in nodes for core in node)
    on = facts(cores=count, cpu_nodes=nodes, memory_mib=64000)
    made = plan(on, vllm_instances=instances)
    assert [i.environment["VLLM_CPU_OMP_THREADS_BIND"] for i in made.instances] == bound
    why = {one.subject: one.why for one in made.reasons}
    said = why[f"{made.instances[0].name}.VLLM_CPU_OMP_THREADS_BIND"]
    assert ("of the first of 2 NUMA nodes" in said) == (bound == ["auto"])


def test_nodes_whose_processors_are_not_told_are_taken_for_rows():
    on = facts(cores=8, numa_nodes=2, memory_mib=64000)
    made = plan(on, vllm_instances=THREE)
    bound = [i.environment["VLLM_CPU_OMP_THREADS_BIND"] for i in made.instances]
    assert bound == ["0-1", "4-7", "2-3"]


def test_an_engine_gets_no_more_memory_than_its_numa_node_has():
    words: dict[str, Any] = {"vllm_models": sized(4000)}
    one, two = ({**ONE, "model": "m", **more} for more in ({}, {"name": "b", "port": 8001}))
    room = facts(cores=8, cpu_nodes=FOUR_EACH, memory_mib=24000, cpu_flags=["avx2", "avx512f"])
    made = plan(room, **words, vllm_instances=[one, two])
    assert [i.environment["VLLM_CPU_KVCACHE_SPACE"] for i in made.instances] == ["2", "2"]
    assert plan(room, **words, vllm_instances=[one]).instances[0].environment[
        "VLLM_CPU_KVCACHE_SPACE"
    ] == "2"  # fmt: skip
    # On a host with one node it would be twice as much and more.
    whole = room.model_copy(update={"cpu_nodes": [FOUR_EACH[0] + FOUR_EACH[1]]})
    made = plan(whole, **words, vllm_instances=[one])
    assert made.instances[0].environment["VLLM_CPU_KVCACHE_SPACE"] == "8"
    small = room.model_copy(update={"memory_mib": 16000})
    with pytest.raises(PlanError, match=r"need 8096 MiB .* their NUMA node has 8000 MiB"):
        plan(small, **words, vllm_instances=[one])
    spanning = {**one, "extra_args": {"tensor_parallel_size": 2}}
    assert plan(small, **words, vllm_instances=[spanning]).instances[0].environment


ONE_PROCESS = [
    # cores, instances, version, whether the scheduler's process computes too
    (1, [ONE], "0.31.0", True),
    (2, [ONE], "0.31.0", True),
    (2, [{**ONE, "cores": 1}], "0.31.0", True),
    (2, [{**ONE, "cores": 2}], "0.31.0", True),
    (2, [{**ONE, "compile": False, "cores": 2}], "0.31.0", True),
    (3, [ONE], "0.31.0", False),
    (64, [ONE], "0.31.0", False),
    (2, TWO, "0.31.0", False),
    (2, [ONE], "0.11.0", False),
    (2, [{**ONE, "extra_args": {"pipeline_parallel_size": 2}}], "0.31.0", False),
]


@pytest.mark.parametrize(("cores", "instances", "version", "one"), ONE_PROCESS)
def test_where_all_cores_compute_there_is_no_worker_to_bind(cores, instances, version, one):
    made = plan(
        facts(cores=cores, memory_mib=32000),
        vllm_instances=instances,
        vllm_engine={"version": version, "accept_vulnerable": True},
    )
    variables = made.instances[0].environment
    assert (variables.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0") == one
    assert ("VLLM_CPU_OMP_THREADS_BIND" in variables) != one
    threads = min(cores, instances[0].get("cores", cores)) if one else None
    assert variables.get("OMP_NUM_THREADS") == (str(threads) if one else None)
    # Threads that never sleep while they wait stand still where the cores have other work.
    assert variables.get("GOMP_SPINCOUNT") == ("5000" if threads == 2 else None)
    assert any("share a process" in reason.why for reason in made.reasons) == one


def test_kernels_that_are_not_compiled_compute_in_one_thread():
    made = plan(facts(cores=2), vllm_instances=[{**ONE, "compile": False}])
    variables = made.instances[0].environment
    assert variables["OMP_NUM_THREADS"] == "1"
    assert "GOMP_SPINCOUNT" not in variables


AMD = ["avx2", "avx512f", "sse4a"]


def test_threads_look_for_work_a_while_before_they_sleep():
    for flags in (AMD, ["avx2", "sse4a"], ["avx2", "avx512f", "amx_tile"]):
        for words, looks in (({}, "5000"), ({"cores": 1}, None), ({"compile": False}, None)):
            made = plan(facts(cores=2, cpu_flags=flags), vllm_instances=[{**ONE, **words}])
            variables = made.instances[0].environment
            assert variables.get("GOMP_SPINCOUNT") == looks
            assert ("a.GOMP_SPINCOUNT" in {one.subject for one in made.reasons}) == bool(looks)


KERNELS = [
    # the processor, vLLM, the requirement
    (AMD, "0.31.0", "zentorch==2.13.0.1"),
    (AMD, "0.30.0", "zentorch==2.13.0.0"),
    (AMD, "0.11.0", None),
    (["avx2", "sse4a"], "0.31.0", None),
    (["avx2", "avx512f"], "0.31.0", None),
]


def test_hosts_tell_what_amds_processors_are_known_by():
    told = (PROJECT / "library/host_facts.py").read_text("utf-8")
    assert all(f'    "{flag}",' in told for flag in ZEN)


@pytest.mark.parametrize(("flags", "version", "pin"), KERNELS)
def test_amd_with_avx512_gets_the_kernels_that_vllm_pins_for_it(flags, version, pin):
    engine = {"version": version, "accept_vulnerable": True}
    made = plan(facts(cpu_flags=flags), vllm_engine=engine)
    found = [one for one in made.packages.requirements if one.startswith("zentorch")]
    assert found == ([pin] if pin else [])
    if pin:
        assert {"zentorch", "wrapt", "deprecated"} <= set(made.packages.hashes)
        assert (
            made.release.id
            != plan(facts(cpu_flags=["avx2", "avx512f"]), vllm_engine=engine).release.id
        )


def test_amds_kernels_are_for_models_of_texts_alone():
    seeing = {**ONE, "name": "v", "port": 8001, "model": "qwen2-vl-2b-instruct"}
    made = plan(facts(cpu_flags=AMD), vllm_instances=[ONE, seeing])
    assert not [one for one in made.packages.requirements if one.startswith("zentorch")]


def test_torch_comes_from_the_cpu_index_where_it_answers():
    made = plan(facts(reachable={TORCH_INDEX: True}))
    assert (made.release.torch_source, made.release.torch) == ("cpu-index", "2.13.0+cpu")
    assert TORCH_INDEX in made.packages.indexes
    assert "torch==2.13.0+cpu" in made.packages.requirements


SEES = {**ONE, "name": "v", "model": "qwen2-vl-2b-instruct"}
VISION = [
    # record, instances, whether torch's index for the CPU answers, the pin of torchvision
    ("cpu-2-cores-avx2", [ONE], True, None),
    ("cpu-2-cores-avx2", [ONE], False, None),
    ("cpu-2-cores-avx2", [SEES], True, "torchvision==0.28.0+cpu"),
    ("cpu-2-cores-avx2", [ONE, {**SEES, "port": 8001}], False, "torchvision==0.28.0"),
    ("gpu-h200", [ONE], False, "torchvision==0.28.0"),
]


@pytest.mark.parametrize(("record", "instances", "answers", "pin"), VISION)
def test_on_the_cpu_torchvision_is_for_models_that_see_alone(record, instances, answers, pin):
    on = facts(record, reachable={TORCH_INDEX: answers}, memory_mib=32000)
    packages = plan(on, vllm_instances=instances).packages
    pins = [one for one in packages.requirements if one.startswith("torchvision")]
    assert pins == ([pin] if pin else [])
    # A file of torch's own index has no checksum here; every other one has.
    assert ("torchvision" in packages.hashes) == (pin == "torchvision==0.28.0")


def test_torch_comes_from_the_default_index_else_with_a_notice():
    made = plan(facts(reachable={TORCH_INDEX: False}))
    assert (made.release.torch_source, made.release.torch) == ("default-index", "2.13.0")
    assert TORCH_INDEX not in made.packages.indexes
    assert any("default index" in notice for notice in made.notices)


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("source", ["cpu-index", "default-index"])
def test_an_index_that_comes_and_goes_makes_no_new_release(source, answers):
    first = plan(facts(reachable={TORCH_INDEX: source == "cpu-index"}))
    receipt = {"plan_digest": first.digest, "content": first.receipt}
    second = plan(facts(reachable={TORCH_INDEX: answers}, receipt=receipt))
    assert second.release == first.release
    assert second.digest == first.digest


def test_the_pins_hashes_are_handed_on_and_make_no_new_release():
    of = (DATA.versions.default_vllm, "cpu", "3.10", "default-index")
    lock = DATA.locks[of].model_copy(update={"hashes": {"torch": ["c" * 64]}})
    made = plan(data=DATA.model_copy(update={"locks": {of: lock}}))
    assert made.packages.hashes == {"torch": ["c" * 64]}
    assert made.release == plan().release
    assert made.digest == plan().digest


def test_what_has_no_lock_is_planned_with_a_notice_that_says_how_to_make_one():
    made = plan(data=DATA.model_copy(update={"locks": {}}))
    assert made.packages.locked is False
    assert made.packages.hashes == {}
    assert any("scripts/lock-engine" in notice for notice in made.notices)


def test_a_release_of_another_python_does_not_decide_the_source_of_torch():
    first = plan(facts(reachable={TORCH_INDEX: True}))
    content = {"release": {**first.receipt["release"], "python": "3.12"}}
    made = plan(facts(receipt={"content": content}))
    assert made.release.torch_source == "default-index"


def test_the_engine_hears_on_a_socket_and_calls_nobody():
    instance = plan(vllm_instances=[{**ONE, "max_model_len": 2048}]).instances[0]
    assert instance.config["uds"] == instance.socket == "/run/vllm/a/api.sock"
    assert not {"host", "port", "api-key"} & instance.config.keys()
    assert instance.config["max-model-len"] == 2048
    assert instance.environment["VLLM_NO_USAGE_STATS"] == "1"
    assert instance.environment["HF_HUB_OFFLINE"] == "1"
    assert instance.unit == "vllm@a.service"


def test_an_old_version_without_a_socket_hears_on_loopback_with_its_own_flags():
    old = {"version": "0.6.3.post1", "accept_vulnerable": True, "device": "cpu"}
    made = plan(vllm_engine=old)
    config = made.instances[0].config
    assert (config["host"], config["port"], made.instances[0].socket) == ("127.0.0.1", 18000, None)
    assert config["disable-frontend-multiprocessing"] is True
    assert config["disable-log-requests"] is True
    assert "shutdown-timeout" not in config


def test_the_current_version_gets_no_flag_that_it_lost():
    config = plan().instances[0].config
    assert not {"disable-log-requests", "disable-frontend-multiprocessing"} & config.keys()
    assert config["shutdown-timeout"] == 30


COMPILED = [
    # the instance's words, the kind of its model, the processor, vLLM, whether it compiles
    ({}, "text", [], "0.31.0", True),
    ({}, "text", [], "0.11.0", False),
    ({}, "text", AMD, "0.31.0", True),
    ({}, "embedding", [], "0.31.0", False),
    ({}, "vision", [], "0.31.0", False),
    ({"compile": False}, "text", [], "0.31.0", False),
    ({"compile": True}, "text", [], "0.11.0", True),
    ({"compile": True}, "embedding", AMD, "0.31.0", True),
]


@pytest.mark.parametrize(("words", "kind", "processor", "version", "compiled"), COMPILED)
def test_kernels_are_compiled_where_it_pays_or_is_asked_for(
    words, kind, processor, version, compiled
):
    made = plan(
        facts(memory_mib=32000, cpu_flags=["avx2", *processor]),
        vllm_engine={"version": version, "accept_vulnerable": True},
        vllm_models={"m": {**sized(100)["m"], "kind": kind}},
        vllm_instances=[{**ONE, "model": "m", **words}],
    )
    (instance,) = made.instances
    assert ("enforce-eager" not in instance.config) == compiled
    assert ("TORCH_COMPILE_DISABLE" not in instance.environment) == compiled
    assert ("g++" in made.apt) == compiled
    kept = instance.environment.get("PYTHONPATH") == "/etc/vllm/python.d"
    assert kept == (compiled and version == "0.31.0")
    wanted = "a.compile" if compiled else "a.enforce-eager"
    assert wanted in {reason.subject for reason in made.reasons}


FBGEMM = ["f16c", "fma"]
KEPT = [
    # vLLM, the inventory's environment, the processor, where the compiled graph is kept
    ("0.31.0", {}, ["avx2"], "/var/cache/vllm/a/vllm-avx2"),
    ("0.31.0", {}, ["avx2", *FBGEMM], "/var/cache/vllm/a/vllm-avx2-float16"),
    ("0.31.0", {}, ["avx2", "avx512f", "avx512_bf16"], "/var/cache/vllm/a/vllm-avx512_bf16"),
    ("0.31.0", {}, ["avx2", *AMD], "/var/cache/vllm/a/vllm-avx512f-zentorch-2.13.0.1"),
    ("0.30.0", {}, ["avx2", *AMD], "/var/cache/vllm/a/vllm-avx512f-zentorch-2.13.0.0"),
    # Without our plugin vLLM cannot load it.
    ("0.31.0", {"PYTHONPATH": "/srv/python"}, ["avx2"], None),
    ("0.31.0", {"VLLM_PLUGINS": "mine"}, ["avx2"], None),
]


@pytest.mark.parametrize(("version", "env", "processor", "place"), KEPT)
def test_a_compiled_graph_is_kept_by_what_it_was_made_for(version, env, processor, place):
    made = plan(
        facts(memory_mib=32000, cpu_flags=processor),
        vllm_engine={"version": version, "accept_vulnerable": True},
        vllm_models=sized(100),
        vllm_instances=[{**ONE, "model": "m", "env": env}],
    )
    environment = made.instances[0].environment
    if place is None:
        assert environment["VLLM_USE_AOT_COMPILE"] == "0"
        assert environment["VLLM_CACHE_ROOT"] == "/var/cache/vllm/a/vllm"
    else:
        assert environment["VLLM_CACHE_ROOT"] == place
        assert "VLLM_USE_AOT_COMPILE" not in environment
    assert env.items() <= environment.items()


HALF_WEIGHTS = [
    # the kind of its model, the instance's words, the processor, whether weights are in float16
    ("text", {}, ["avx2", *FBGEMM], True),
    ("text", {"compile": False}, ["avx2", *FBGEMM], True),
    ("text", {"dtype": "float32"}, ["avx2", *FBGEMM], True),
    ("text", {"dtype": "bfloat16"}, ["avx2", *FBGEMM], False),
    ("text", {}, ["avx2", "fma"], False),
    ("text", {"dtype": "float32"}, ["avx2", *FBGEMM, "avx512f"], False),
    ("text", {"env": {"PYTHONPATH": "/srv/python"}}, ["avx2", *FBGEMM], False),
    ("text", {"env": {"LINEAR_WEIGHTS": "float32"}}, ["avx2", *FBGEMM], False),
    # Seen with models of texts alone.
    ("embedding", {"dtype": "float32"}, ["avx2", *FBGEMM], False),
    ("vision", {"dtype": "float32"}, ["avx2", *FBGEMM], False),
]


@pytest.mark.parametrize(("kind", "words", "processor", "half"), HALF_WEIGHTS)
def test_weights_stay_small_where_the_processor_computes_with_32_bits(kind, words, processor, half):
    made = plan(
        facts(memory_mib=32000, cpu_flags=processor),
        vllm_models={"m": {**sized(100)["m"], "kind": kind}},
        vllm_instances=[{**ONE, "model": "m", **words}],
    )
    environment = made.instances[0].environment
    assert (environment.get("LINEAR_WEIGHTS") == "float16") == half
    assert ("a.LINEAR_WEIGHTS" in {reason.subject for reason in made.reasons}) == half
    assert not half or environment["PYTHONPATH"] == "/etc/vllm/python.d"


def test_a_format_of_weights_that_no_plugin_knows_is_refused():
    with pytest.raises(PlanError, match=r"LINEAR_WEIGHTS in env of a is 'bfloat16': it is float16"):
        plan(vllm_instances=[{**ONE, "env": {"LINEAR_WEIGHTS": "bfloat16"}}])


def test_arguments_and_environment_of_the_inventory_win():
    extra = {"extra_args": {"max_num_seqs": 8}, "env": {"VLLM_LOGGING_LEVEL": "DEBUG"}}
    instance = plan(vllm_instances=[{**ONE, **extra}]).instances[0]
    assert instance.config["max-num-seqs"] == 8
    assert instance.environment["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_what_an_inventory_says_wins_over_its_profile():
    index = "https://index.example.com/simple"
    made = plan(vllm_sources={"profile": "tuna", "packages": {"default_index": index}})
    assert made.packages.default_index == index
    assert made.packages.indexes == ["https://wheels.vllm.ai/0.31.0/cpu"]
    assert made.miniconda.urls[0].startswith("https://mirrors.tuna.tsinghua.edu.cn/")


def test_the_upstream_profile_leaves_the_client_its_default_index():
    assert plan(vllm_sources={"profile": "upstream"}).packages.default_index is None
    unset = plan(vllm_sources={"profile": "tuna", "packages": {"default_index": None}})
    assert unset.packages.default_index is None


def test_the_urls_to_ask_about_are_those_of_the_profile():
    words = check_host("h", {"vllm_instances": [ONE]}, DATA).words
    assert words is not None
    assert probe_urls(words, DATA) == [
        TORCH_INDEX,
        "https://mirrors.aliyun.com/pytorch-wheels/cpu/",
    ]


def test_only_places_of_torch_that_answer_are_asked():
    places = plan(facts(reachable={TORCH_INDEX: True})).packages
    assert (TORCH_INDEX in places.indexes, places.find_links) == (True, [])
    listing = "https://mirrors.aliyun.com/pytorch-wheels/cpu/"
    places = plan(facts(reachable={TORCH_INDEX: False, listing: True})).packages
    assert (TORCH_INDEX in places.indexes, places.find_links) == (False, [listing])


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        (["127.0.0.1"], "127.0.0.1"),
        (["127.0.0.1", "192.0.2.7"], "192.0.2.7"),
        (["0.0.0.0"], "127.0.0.1"),  # noqa: S104
        (["::1"], "[::1]"),
    ],
)
def test_the_address_that_users_are_told(listen, address):
    assert door_address(listen) == address


ROUTES = {
    "qwen2.5-0.5b-instruct": {"/v1/models", "/v1/completions", "/v1/chat/completions"},
    "qwen2-vl-2b-instruct": {"/v1/models", "/v1/completions", "/v1/chat/completions"},
    "bge-small-zh-v1.5": {"/v1/models", "/v1/embeddings"},
}


@pytest.mark.parametrize("model", ROUTES)
def test_the_door_lets_through_what_the_kind_of_model_answers_and_no_more(model):
    instance = {**ONE, "model": model}
    assert set(plan(vllm_instances=[instance]).instances[0].routes) == ROUTES[model]
    routes = ["/v1/models", "/v1/responses"]
    told = plan(vllm_instances=[instance], vllm_gateway={"routes": routes})
    assert told.instances[0].routes == routes


CHANGES_THE_HOST: list[dict[str, Any]] = [
    {"vllm_instances": [{**ONE, "port": 8001}]},
    {"vllm_instances": [{**ONE, "kv_cache_gib": 1}]},
    {"vllm_instances": TWO},
    {"vllm_gateway": {"listen": ["127.0.0.1", "192.0.2.7"]}},
    {"vllm_gateway": {"routes": ["/v1/models"]}},
    {"vllm_sources": {"profile": "upstream"}},
    {"__role_variables__": {"gateway_max_body_size": "1m"}},
]
CHANGES_NOTHING = [
    {"vllm_instances": [{**ONE, "ready_timeout": 700}]},
    {"vllm_sources": {"miniconda": {"mirrors": ["https://mirror.example.com/miniconda"]}}},
    {"vllm_engine": {"device": "cpu", "version": "0.31.0"}},
]


@pytest.mark.parametrize("words", CHANGES_THE_HOST)
def test_the_digest_changes_with_what_changes_the_host(words):
    assert plan(**words).digest != plan().digest


@pytest.mark.parametrize("words", CHANGES_NOTHING)
def test_the_digest_stays_when_the_host_stays(words):
    assert plan(**words).digest == plan().digest


def test_the_digest_changes_with_the_key_and_with_the_code():
    assert plan(fingerprint="1" * 16).digest != plan(fingerprint="2" * 16).digest
    words = check_host("h", {"vllm_instances": [ONE]}, DATA).words
    assert words is not None
    newer = plan_host(words, facts(), DATA.model_copy(update={"code_digest": "x"}), name="h")
    assert newer.digest != plan().digest


def test_the_digest_is_the_same_on_every_host_and_run():
    assert plan().digest == plan().digest == plan(facts(python="3.9.2")).digest


def test_the_receipt_keeps_no_environment():
    made = plan(vllm_instances=[{**ONE, "env": {"NOTE": "hunter2"}}])
    assert "hunter2" not in json.dumps(made.receipt)


def test_the_difference_from_the_receipt():
    first = plan()
    assert differences(first, facts()) == ["the host has no receipt: everything would be done"]
    known = facts(receipt={"plan_digest": first.digest, "content": first.receipt})
    assert differences(first, known) == []
    other = plan(known, vllm_instances=[{**ONE, "dtype": "bfloat16"}, TWO[1]])
    assert differences(other, known) == [
        "instances: b is added",
        "instances: a is changed (config_digest)",
    ]


FORMATS = [
    # what the instance says, the processor, MiB of the model, of the host, its number format
    ({}, ["avx2"], 1000, 16000, "float32"),
    ({}, ["avx2", "avx512f"], 1000, 16000, "auto"),
    ({"dtype": "bfloat16"}, ["avx2"], 1000, 16000, "bfloat16"),
    ({"extra_args": {"quantization": "gptq"}}, ["avx2"], 1000, 16000, "auto"),
    # 16000 MiB of weights do not fit.
    ({}, ["avx2"], 8000, 16000, "auto"),
    # Nobody knows whether twice as much fits.
    ({}, ["avx2"], 0, 16000, "auto"),
]


@pytest.mark.parametrize(("words", "flags", "size", "memory", "wanted"), FORMATS)
def test_without_avx512_numbers_are_computed_in_32_bits(words, flags, size, memory, wanted):
    made = plan(
        facts(cpu_flags=flags, memory_mib=memory),
        vllm_models=sized(size),
        vllm_instances=[{**ONE, "model": "m", **words}],
    )
    assert made.instances[0].config["dtype"] == wanted
    (reason,) = (one for one in made.reasons if one.subject == "a.dtype")
    assert reason.value == wanted
    assert ("too little" in reason.why) == (size == 8000)


def test_an_encoder_of_unknown_size_leaves_the_others_their_32_bits():
    encoder = {"name": "e", "model": "bge-small-zh-v1.5", "port": 8001}
    made = plan(
        facts(cpu_flags=["avx2"], memory_mib=16000),
        vllm_models=sized(1000),
        vllm_instances=[{**ONE, "model": "m"}, encoder],
    )
    assert [one.config["dtype"] for one in made.instances] == ["float32", "auto"]


def test_weights_in_32_bits_count_twice():
    def gib(**more: Any) -> int:
        made = plan(
            facts(cpu_flags=["avx2", "avx512f"], memory_mib=16000),
            vllm_models=sized(4000),
            vllm_instances=[{**ONE, "model": "m", **more}],
        )
        return int(made.instances[0].environment["VLLM_CPU_KVCACHE_SPACE"])

    # Half of what 1024 for the system, 2048 for the engine and the weights leave.
    assert (gib(), gib(dtype="float32")) == (4, 2)
