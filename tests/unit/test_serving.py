"""What is served how: flags by kind and version, context, shares, templates, logs. By tables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.test_plan import DATA, facts
from vllm_ansible.plan import PlanError, plan_host
from vllm_ansible.plan.length import held
from vllm_ansible.plan.unit import words as argv
from vllm_ansible.schema import check_host

TEXT = {"name": "text", "model": "qwen2.5-1.5b-instruct"}
SEVEN = {"name": "text", "model": "qwen2-7b-instruct"}
VISION = {"name": "eyes", "model": "qwen2-vl-2b-instruct", "port": 8001}
VECTORS = {"name": "vectors", "model": "bge-small-zh-v1.5", "port": 8002}
SOURCE = {"kind": "git-lfs", "url": "https://git.example.com/m.git"}
VERSIONS = ["0.5.0.post1", "0.6.3.post1", "0.11.0", "0.31.0", "0.32.0"]


def words(instances: list[dict[str, Any]], version: str = "0.31.0", device: str = "cpu", **more):
    python = "3.11" if version == "0.32.0" else "3.10"
    engine = {"version": version, "device": device, "python": python, "accept_vulnerable": True}
    return {"vllm_instances": instances, "vllm_engine": engine, **more}


def plan(
    instances: list[dict[str, Any]], version: str = "0.31.0", device: str = "cpu",
    on: dict[str, Any] | None = None, record: str = "", **more: Any,
):  # fmt: skip
    record = record or ("gpu-two-a100" if device == "gpu" else "cpu-16-cores-avx512")
    sealed = ["vllm_instances[0].extra_args.hf-token"]
    checked = check_host("h", words(instances, version, device, **more), DATA, sealed)
    assert checked.words is not None, checked.problems
    return plan_host(checked.words, facts(record, **(on or {})), DATA, name="h")


def config(instance: dict[str, Any], version: str = "0.31.0", **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = plan([instance], version, **more).instances[0].config
    return found


def refused(*instances: dict[str, Any], **more: Any) -> str:
    with pytest.raises(PlanError) as error:
        plan(list(instances), **more)
    return str(error.value)


# The tutorials' commands, in the inventory's words, and what each version is started with. Paths of
# models are shortened to their names.
TUTORIALS: dict[str, dict[str, Any]] = {
    # vllm serve ... --served-model-name Qwen/... --port 8000 --device cpu
    #   --disable-frontend-multiprocessing
    "text on a CPU": {**TEXT, "served_names": ["Qwen/Qwen2.5-1.5B-Instruct"]},
    # ... --port 7862 --served-model-name Qwen --tensor-parallel-size 2 --dtype=half
    "text on two GPUs": {
        **SEVEN,
        "served_names": ["Qwen"],
        "port": 7862,
        "dtype": "half",
        "extra_args": {"tensor-parallel-size": 2},
    },
    # ... --served-model-name Qwen2-VL-2B-Instruct --max-model-len=2048
    "images": {**VISION, "served_names": ["Qwen2-VL-2B-Instruct"], "max_model_len": 2048},
}
OLD = "--host 127.0.0.1 --port 18000 --disable-log-requests --uvicorn-log-level warning"
V11 = "--uds /run/vllm/NAME/api.sock --disable-log-requests --disable-uvicorn-access-log"
NEW = "--uds /run/vllm/NAME/api.sock --disable-uvicorn-access-log --shutdown-timeout 30"
EAGER = "--enforce-eager --dtype auto"
ONE_PROCESS = "--disable-frontend-multiprocessing"
QWEN = "--model MODEL --served-model-name Qwen/Qwen2.5-1.5B-Instruct --max-model-len 32768"
TWO = "--model MODEL --served-model-name Qwen --tensor-parallel-size 2 --dtype half"
EYES = "--model MODEL --served-model-name Qwen2-VL-2B-Instruct --max-model-len 2048"
JSON_IMAGES = '--limit-mm-per-prompt {"image": 4, "video": 0} --allowed-media-domains none.invalid'
COMMANDS = [
    ("text on a CPU", "0.6.3.post1", f"{QWEN} {OLD} {EAGER} {ONE_PROCESS}"),
    ("text on a CPU", "0.11.0", f"{QWEN} {V11} {EAGER} {ONE_PROCESS}"),
    ("text on a CPU", "0.31.0", f"{QWEN} {NEW} --dtype auto"),
    ("text on a CPU", "0.32.0", f"{QWEN} {NEW} --dtype auto"),
    ("text on two GPUs", "0.5.0.post1", f"{TWO} {OLD}"),
    ("text on two GPUs", "0.6.3.post1", f"{TWO} {OLD}"),
    ("text on two GPUs", "0.11.0", f"{TWO} {V11}"),
    ("text on two GPUs", "0.31.0", f"{TWO} {NEW} --max-model-len auto"),
    ("text on two GPUs", "0.32.0", f"{TWO} {NEW} --max-model-len auto"),
    ("images", "0.6.3.post1", f"{EYES} {OLD} --limit-mm-per-prompt image=1 --dtype auto"),
    ("images", "0.11.0", f"{EYES} {V11} {JSON_IMAGES} --dtype auto"),
    ("images", "0.31.0", f"{EYES} {NEW} {JSON_IMAGES} --dtype auto"),
    ("images", "0.32.0", f"{EYES} {NEW} {JSON_IMAGES} --dtype auto"),
]


def options(command: str) -> list[str]:
    return sorted(f"--{option}".strip() for option in command.split("--")[1:])


@pytest.mark.parametrize(("tutorial", "version", "command"), COMMANDS)
def test_the_tutorials_words_start_every_version(tutorial, version, command):
    device = "cpu" if tutorial == "text on a CPU" else "gpu"
    instance = plan([TUTORIALS[tutorial]], version, device).instances[0]
    said = " ".join(argv(instance.config)).replace(instance.model_path, "MODEL")
    assert options(said) == options(command.replace("NAME", instance.name))


def test_what_a_version_cannot_serve_is_refused_with_the_one_that_can():
    said = refused(VISION, version="0.5.0.post1", device="gpu")
    assert "does not serve qwen2-vl-2b-instruct: say vllm_engine.version 0.6.3.post1" in said
    assert "0.11.0 or newer" in refused(VECTORS, version="0.6.3.post1")


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("0.11.0", {"runner": "pooling", "pooler-config": '{"pooling_type": "MEAN"}'}),
        ("0.32.0", {"runner": "pooling", "pooler-config": '{"pooling_type": "MEAN"}'}),
    ],
)
def test_vectors_have_a_runner_of_their_own(version, flags):
    made = config({**VECTORS, "pooling": "MEAN"}, version)
    assert {name: made[name] for name in flags} == flags
    assert not {"runner", "task", "pooler-config"} & config(TEXT, version).keys()


@pytest.mark.parametrize(("version", "flags"), [("0.9.2", {"task": "embed"}), ("0.6.3.post1", {})])
def test_before_runners_a_model_of_vectors_has_a_task_or_is_seen_by_itself(version, flags):
    known = {**DATA.versions.vllm, "0.9.2": DATA.versions.vllm["0.11.0"]}
    older = DATA.model_copy(
        update={
            "versions": DATA.versions.model_copy(update={"vllm": known}),
            "locks": {**DATA.locks, **_as_of_0_9_2()},
        }
    )
    model = {"kind": "embedding", "revision": "b" * 40, "sources": [SOURCE]}
    said = words([{**VECTORS, "model": "m"}], version, vllm_models={"m": model})
    checked = check_host("h", said, older)
    assert checked.words is not None, checked.problems
    made = plan_host(checked.words, facts("cpu-16-cores-avx512"), older, name="h")
    found = made.instances[0].config
    assert {k: v for k, v in found.items() if k in {"runner", "task"}} == flags


def _as_of_0_9_2():
    return {("0.9.2", *key[1:]): lock for key, lock in DATA.locks.items() if key[0] == "0.11.0"}


@pytest.mark.parametrize(
    ("version", "images"), [("0.6.3.post1", "image=7"), ("0.31.0", '{"image": 7')]
)
def test_images_per_prompt_are_said_in_the_versions_form(version, images):
    assert config({**VISION, "images": 7}, version)["limit-mm-per-prompt"].startswith(images)


def test_nothing_is_fetched_for_whoever_asks():
    made = config(VISION)
    assert made["allowed-media-domains"] == ["none.invalid"]
    assert "allowed-local-media-path" not in made
    asked = config({**VISION, "media_path": "/srv/images"})
    assert asked["allowed-local-media-path"] == "/srv/images"
    old = plan([VISION], "0.6.3.post1")
    assert any("fetches an image from the URL" in notice for notice in old.notices)
    assert "media_path needs" in refused({**VISION, "media_path": "/x"}, version="0.6.3.post1")


def test_an_option_that_a_version_lost_is_left_out_and_told():
    more = {"extra_args": {"swap_space": 8, "max-num-seqs": 4}}
    new, old = plan([{**TEXT, **more}]), plan([{**TEXT, **more}], "0.6.3.post1")
    assert "swap-space" not in new.instances[0].config
    assert any("swap-space is left out" in notice and "0.18.0" in notice for notice in new.notices)
    assert old.instances[0].config["swap-space"] == 8
    assert new.instances[0].config["max-num-seqs"] == 4


ARCHITECTURES = {
    # layers, key-value heads, head size: num_hidden_layers, num_key_value_heads and hidden_size /
    # num_attention_heads of each config.json. An encoder keeps no cache.
    "bge-small-zh-v1.5": (0, 8, 64),
    "qwen2-0.5b-instruct": (24, 2, 896 // 14),
    "qwen2-7b-instruct": (28, 4, 3584 // 28),
    "qwen2-vl-2b-instruct": (28, 2, 1536 // 12),
    "qwen2.5-0.5b-instruct": (24, 2, 896 // 14),
    "qwen2.5-1.5b-instruct": (28, 2, 1536 // 12),
    "smollm2-135m-instruct": (30, 3, 576 // 9),
}


def test_the_catalogues_figures_follow_from_the_models_shapes():
    known = {name: model.kv_bytes_per_token for name, model in DATA.models.items()}
    shapes = {
        n: 2 * 2 * layers * heads * size for n, (layers, heads, size) in ARCHITECTURES.items()
    }
    assert {name: known[name] for name in shapes} == shapes


def test_the_cache_holds_a_block_less_than_it_has():
    # 1 GiB at 28672 bytes: 292 whole blocks of 128 tokens, of which vLLM keeps one.
    assert held(1, 28672) == 291 * 128
    assert held(1, 2**30) == 0


LENGTHS = [
    # instance, version, what it is told, what the reason says
    ({**TEXT, "kv_cache_gib": 4}, "0.31.0", 32768, "the model's own context"),
    ({**SEVEN, "kv_cache_gib": 1}, "0.31.0", 145 * 128, "at 57344 bytes per token"),
    ({**SEVEN, "kv_cache_gib": 1}, "0.6.3.post1", 145 * 128, "the model's own context is 32768"),
    ({**SEVEN, "kv_cache_gib": 1, "dtype": "float32"}, "0.31.0", 72 * 128, "114688 bytes"),
    (VECTORS, "0.31.0", 512, "the model's own context"),
    ({**TEXT, "model": "m"}, "0.31.0", "auto", "m's context and kv_bytes_per_token are not known"),
    ({**TEXT, "model": "m"}, "0.11.0", None, "are not known"),
    ({**TEXT, "max_model_len": 2048}, "0.31.0", 2048, "the inventory says so"),
]


@pytest.mark.parametrize(("instance", "version", "length", "why"), LENGTHS)
def test_the_longest_text_fits_the_cache(instance, version, length, why):
    unknown = {"m": {"revision": "b" * 40, "sources": [SOURCE]}}
    made = plan([instance], version, vllm_models=unknown)
    assert made.instances[0].config.get("max-model-len") == length
    (reason,) = [r for r in made.reasons if r.subject.endswith("max-model-len")]
    assert why in reason.why
    assert any("max_model_len says it" in n for n in made.notices) == (length is None)


def test_a_text_too_long_for_cache_or_model_is_refused_with_figures():
    said = refused({**SEVEN, "kv_cache_gib": 1, "max_model_len": 32768})
    assert "needs 2 GiB of KV cache (57344 bytes per token), it has 1 GiB, which hold 18560" in said
    assert "max_model_len 40000 is more than the context" in refused(
        {**TEXT, "max_model_len": 40000}
    )
    stretched = {**TEXT, "max_model_len": 40000, "extra_args": {"hf-overrides": "{}"}}
    assert config(stretched)["max-model-len"] == 40000


@pytest.mark.parametrize(
    ("weights", "length"), [(15_000, 32768), (70_000, 18560), (0, None), (71_500, None)]
)
def test_an_old_engine_on_a_gpu_is_given_the_length_that_is_estimated_to_fit(weights, length):
    files = {"model.safetensors": {"size": weights * 2**20, "sha256": "a" * 64}} if weights else {}
    seven = DATA.models["qwen2-7b-instruct"].model_dump(exclude={"files"})
    made = plan(
        [SEVEN], "0.6.3.post1", "gpu", record="gpu-a100",
        vllm_models={"qwen2-7b-instruct": {**seven, "files": files}},
    )  # fmt: skip
    assert made.instances[0].config.get("max-model-len") == length
    assert any("max_model_len says it" in n for n in made.notices) == (length is None)


def test_a_chosen_cache_holds_the_length_asked_for():
    made = plan([{**SEVEN, "max_model_len": 32768}], on={"memory_mib": 5600})
    assert made.instances[0].environment["VLLM_CPU_KVCACHE_SPACE"] == "2"


def test_three_kinds_share_a_host():
    made = plan([{**TEXT, "cores": 8}, VISION, {**VECTORS, "cores": 1}])
    shares = {
        i.name: (
            i.environment["VLLM_CPU_KVCACHE_SPACE"], i.environment["VLLM_CPU_OMP_THREADS_BIND"]
        )
        for i in made.instances
    }  # fmt: skip
    # An encoder keeps no cache, so the two others halve the rest.
    assert shares == {"text": ("4", "0-7"), "eyes": ("4", "8-14"), "vectors": ("1", "15")}


CORES = [
    # cores of the host, of the instances, what each is bound to
    (8, [2, 2], ["0-1", "2-3"]),
    (8, [None, 6], ["0-1", "2-7"]),
    (4, [3], ["0-2"]),
    (1, [None, None], ["nobind", "nobind"]),
]


@pytest.mark.parametrize(("cores", "asked", "bound"), CORES)
def test_cores_are_given_as_asked_and_never_twice(cores, asked, bound):
    instances = [
        {**TEXT, "name": f"i{n}", "port": 8000 + n} | ({"cores": count} if count else {})
        for n, count in enumerate(asked)
    ]
    made = plan(instances, on={"cores": cores})
    assert [i.environment["VLLM_CPU_OMP_THREADS_BIND"] for i in made.instances] == bound


def test_more_cores_than_there_are_are_refused_with_figures():
    said = refused({**TEXT, "cores": 16}, VISION)
    assert "want 17 (text 16, eyes at least 1), the host has 16" in said


def test_what_others_leave_of_a_gpu_is_shared():
    big = {**TEXT, "extra_args": {"gpu-memory-utilization": 0.6}}
    made = plan([big, VISION, VECTORS], device="gpu", record="gpu-a100")
    shares = [i.config["gpu-memory-utilization"] for i in made.instances]
    assert shares == [0.6, 0.16, 0.16]
    more = {**VISION, "extra_args": {"gpu_memory_utilization": 0.5}}
    assert "add up to 1.1" in refused(big, more, device="gpu", record="gpu-a100")


def test_instances_of_a_host_share_no_port_socket_file_or_name():
    for version in ("0.6.3.post1", "0.31.0"):
        made = plan([TEXT, {**TEXT, "name": "text.logging", "port": 8001}], version)
        taken = [file.path for file in made.managed.files]
        assert len(taken) == len(set(taken))
        inner = [i.socket or i.address for i in made.instances]
        ports = [i.port for i in made.instances]
        assert (len(set(inner)), len(set(ports))) == (2, 2)


def test_one_name_for_two_instances_is_told():
    twin = {**TEXT, "name": "twin", "port": 8001}
    said = "text, twin are all asked for as qwen2.5-1.5b-instruct"
    assert any(said in notice for notice in plan([TEXT, twin]).notices)
    assert not any("asked for" in n for n in plan([TEXT, {**twin, "served_names": ["b"]}]).notices)


def test_an_engines_own_port_is_not_a_door():
    said = refused({**TEXT, "port": 18001}, VISION, version="0.6.3.post1")
    assert "port 18001 of text is taken by an engine's own" in said


CHATML = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def test_a_chat_template_travels_with_its_content(tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text(CHATML, "utf-8")
    instance = {**TEXT, "chat_template": str(file)}
    made = plan([instance])
    assert made.instances[0].config["chat-template"] == "/etc/vllm/text.jinja"
    assert [f.content for f in made.instances[0].files if f.path.endswith(".jinja")] == [CHATML]
    assert "/etc/vllm/text.jinja" in [file.path for file in made.managed.files]
    file.write_text(CHATML + "{# changed #}", "utf-8")
    assert plan([instance]).digest != made.digest


TEMPLATES = [
    (b"{% for m in messages %}", "line 1: Unexpected end of template"),
    (b"{{ " + b"x" * 100_000 + b" }}", "the most is 100000"),
    (b"\xff\xfe", "not text in UTF-8"),
    (b"  \n", "empty"),
    (None, "No such file"),
]


@pytest.mark.parametrize(("content", "says"), TEMPLATES)
def test_a_file_that_is_no_chat_template_is_refused(tmp_path, content, says):
    file = tmp_path / "chat.jinja"
    if content is not None:
        file.write_bytes(content)
    found = check_host("h", words([{**TEXT, "chat_template": str(file)}]), DATA).problems
    assert [one.variable for one in found] == ["vllm_instances[0].chat_template"]
    assert says in str(found[0])


@pytest.mark.parametrize(
    "text",
    ["{% generation %}{{ m }}{% endgeneration %}", "{% for m in x %}{% break %}{% endfor %}"],
)
def test_a_chat_template_may_say_what_transformers_knows(tmp_path, text):
    file = tmp_path / "chat.jinja"
    file.write_text(text, "utf-8")
    assert check_host("h", words([{**TEXT, "chat_template": str(file)}]), DATA).problems == []


WRONG_KIND = [
    ({**TEXT, "images": 2}, "images", "this is for vision"),
    ({**TEXT, "pooling": "CLS"}, "pooling", "this is for embedding"),
    ({**VECTORS, "chat_template": "/x.jinja"}, "chat_template", "is of kind embedding"),
    ({**TEXT, "extra_args": {"runner": "pooling"}}, "extra_args.runner", "kind"),
    ({**TEXT, "extra_args": {"chat-template": "/x"}}, "extra_args.chat-template", "chat_template"),
    ({**VISION, "media_path": "images"}, "media_path", "an absolute path on the host"),
]


@pytest.mark.parametrize(("instance", "word", "says"), WRONG_KIND)
def test_a_word_of_another_kind_is_refused(instance, word, says):
    found = check_host("h", words([instance]), DATA).problems
    assert any(
        one.variable == f"vllm_instances[0].{word}" and says in one.allowed for one in found
    ), found


def logged(version: str = "0.31.0", **logs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """An instance's options and its loggers' levels."""
    instance = plan([TEXT], version, vllm_logs=logs).instances[0]
    (file,) = [f for f in instance.files if f.path == "/etc/vllm/text.logging.json"]
    assert instance.environment["VLLM_LOGGING_CONFIG_PATH"] == file.path
    loggers = json.loads(file.content)["loggers"]
    return instance.config, {name: one["level"] for name, one in loggers.items()}


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_the_journal_has_no_statistics_and_no_requests(version):
    said, levels = logged(version)
    assert levels["vllm.engine.metrics"] == levels["vllm.v1.metrics.loggers"] == "WARNING"
    assert levels["vllm"] == "INFO"
    # It would take the engine's figures off /metrics too.
    assert "disable-log-stats" not in said
    assert "enable-log-requests" not in said
    assert said.get("disable-log-requests", False) == (version in {"0.6.3.post1", "0.11.0"})


def test_the_journal_has_what_is_asked_for():
    said, levels = logged(statistics=True, requests=True)
    assert not {"vllm.v1.metrics.loggers", "vllm.engine.metrics"} & levels.keys()
    assert (said["enable-log-requests"], said["max-log-len"]) == (True, 0)
    assert "DEBUG" not in levels.values()
    said, levels = logged(requests=True, prompt_characters=80)
    assert said["max-log-len"] == 80
    assert levels["vllm.entrypoints.serve.utils.request_logger"] == "DEBUG"
    said, _ = logged("0.6.3.post1", requests=True)
    assert "disable-log-requests" not in said
    assert "enable-log-requests" not in said


def test_the_level_that_the_environment_names_holds():
    instance = plan([{**TEXT, "env": {"VLLM_LOGGING_LEVEL": "debug"}}]).instances[0]
    assert json.loads(instance.files[0].content)["loggers"]["vllm"]["level"] == "DEBUG"


@pytest.mark.parametrize(
    ("given", "form", "rotated"),
    [({}, "plain", False), ({"gateway_access": "json"}, "json", True),
     ({"gateway_access": False}, "off", False)],
)  # fmt: skip
def test_the_doors_log_has_the_form_asked_for(given, form, rotated):
    made = plan([TEXT], vllm_logs=given)
    assert made.gateway.access_log == form
    assert ("logrotate" in made.apt) == rotated
    paths = [file.path for file in made.managed.files]
    assert ("/etc/logrotate.d/vllm-gateway" in paths) == rotated


def test_prompts_without_requests_are_refused():
    found = check_host("h", words([TEXT], vllm_logs={"prompt_characters": 9}), DATA).problems
    assert [one.variable for one in found] == ["vllm_logs.prompt_characters"]


def test_options_that_count_tokens_are_no_secrets():
    more = {"max-num-batched-tokens": 4096, "tokenizer-mode": "slow"}
    made = config({**TEXT, "extra_args": more}, "0.6.3.post1")
    assert {name: made[name] for name in more} == more
    assert "looks like a secret" in refused(
        {**TEXT, "extra_args": {"hf-token": "x"}}, version="0.6.3.post1"
    )


def test_a_mapping_is_written_as_json_which_every_version_reads():
    """0.11.0 makes Python's text of a mapping in its file, and no version reads one in a list."""
    spoken = {"method": "ngram", "num_speculative_tokens": 3}
    extra = {"speculative-config": spoken, "lora-modules": [{"name": "a", "path": "/b"}]}
    told = config({**TEXT, "extra_args": extra})
    assert json.loads(told["speculative-config"]) == spoken
    assert json.loads(told["lora-modules"][0]) == {"name": "a", "path": "/b"}
