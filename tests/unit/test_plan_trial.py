"""What is proved and tried before a serving host is touched: decided by tables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.test_plan import DATA, facts
from tests.unit.test_serving import TEXT, words
from vllm_ansible.plan import plan_host
from vllm_ansible.schema import check_host

SIZED = {
    "revision": "b" * 40,
    "kv_bytes_per_token": 2**20,
    "sources": [{"kind": "git-lfs", "url": "https://git.example.com/m.git"}],
    "files": {"model.safetensors": {"size": 500 * 2**20, "sha256": "a" * 64}},
}
ONE = {"name": "chat", "model": "m", "kv_cache_gib": 2, "max_model_len": 256}


def plan(
    *instances: dict[str, Any], version: str = "0.31.0", device: str = "cpu",
    memory: int = 32768, **more: Any,
):  # fmt: skip
    said = words(list(instances), version, device, vllm_models={"m": SIZED}, **more)
    checked = check_host("h", said, DATA)
    assert checked.words is not None, checked.problems
    record = "gpu-two-a100" if device == "gpu" else "cpu-16-cores-avx512"
    on = facts(record, **({} if device == "gpu" else {"memory_mib": memory}))
    return plan_host(checked.words, on, DATA, name="h")


def why(made: Any, name: str = "chat") -> tuple[str, str]:
    (found,) = [one for one in made.reasons if one.subject == f"{name}.trial"]
    return found.value, found.why


def test_a_double_has_places_of_its_own_and_the_new_release_s_path() -> None:
    said = {**ONE, "env": {"LD_PRELOAD": "/opt/vllm/current/lib/libx.so", "NOTE": "chat"}}
    made = plan(said)
    one = made.instances[0]
    proof = one.proof
    assert (proof.name, proof.socket) == ("chat.trial", "/run/vllm/chat.trial/api.sock")
    assert proof.config["uds"] == proof.socket
    assert proof.environment["HOME"] == "/var/cache/vllm/chat.trial"
    assert proof.environment["VLLM_LOGGING_CONFIG_PATH"] == "/etc/vllm/chat.trial.logging.json"
    assert [file.path for file in proof.files] == ["/etc/vllm/chat.trial.logging.json"]
    assert proof.environment["LD_PRELOAD"] == f"{made.release.path}/lib/libx.so"
    assert proof.environment["NOTE"] == "chat"
    assert proof.command == ["serve", "--config", "/etc/vllm/chat.trial.yaml"]
    # What it serves and how is what will serve.
    same = {key: value for key, value in proof.config.items() if key != "uds"}
    assert same == {key: value for key, value in one.config.items() if key != "uds"}


def test_a_neighbour_of_a_like_name_keeps_its_places() -> None:
    one = {**ONE, "env": {"OTHER": "/etc/vllm/chat2.yaml /run/vllm/chat-b/api.sock"}}
    assert plan(one).instances[0].proof.environment["OTHER"] == (
        "/etc/vllm/chat2.yaml /run/vllm/chat-b/api.sock"
    )


# An engine of 500 MiB: 2048 beside its weights and its cache; 1024 stay with the system.
ENGINE = 2048 + 500


@pytest.mark.parametrize(
    ("left", "fits"), [(ENGINE + 1024, True), (ENGINE + 1023, False), (0, False)]
)
def test_a_trial_is_run_where_a_second_engine_fits_beside_those_that_serve(
    left: int, fits: bool
) -> None:
    made = plan(ONE, memory=1024 + ENGINE + 2 * 1024 + left)
    assert (made.instances[0].trial is not None) == fits
    assert f"it needs {ENGINE + 1024} MiB with a KV cache of 1 GiB, {left} are left" in why(made)[1]
    assert made.instances[0].proof is not None


def test_the_engines_of_all_instances_are_counted() -> None:
    two = [ONE, {**ONE, "name": "code", "port": 8001}]
    room = 1024 + 2 * (ENGINE + 2 * 1024)
    assert plan(*two, memory=room + 3571).instances[0].trial is None
    both = plan(*two, memory=room + 3572).instances
    assert [one.trial.name for one in both] == ["chat.trial", "code.trial"]


def test_a_trial_s_cache_is_as_small_as_its_longest_text_lets_it_be() -> None:
    small = plan(ONE).instances[0]
    assert small.environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert small.trial.environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert small.proof.environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    # 2048 tokens of 1 MiB and a block.
    long = plan({**ONE, "kv_cache_gib": 4, "max_model_len": 2048}).instances[0]
    assert long.trial.environment["VLLM_CPU_KVCACHE_SPACE"] == "3"


NOT_TRIED: list[tuple[dict[str, Any], str]] = [
    ({"device": "gpu"}, "a GPU's memory is taken"),
    ({"vllm_releases": {"trial": False}}, "vllm_releases.trial is off"),
]


@pytest.mark.parametrize(("more", "says"), NOT_TRIED)
def test_where_there_is_no_trial_the_plan_says_why_and_the_proof_stays(
    more: dict[str, Any], says: str
) -> None:
    made = plan(ONE, **more)
    assert (made.instances[0].trial, made.instances[0].proof is None) == (None, False)
    assert (why(made)[0], says in why(made)[1]) == ("none", True)


def test_a_model_of_unknown_size_is_not_tried() -> None:
    assert plan(TEXT).instances[0].trial is None


@pytest.mark.parametrize(
    ("version", "start", "builds"),
    [
        ("0.31.0", ["serve", "--config"], True),
        ("0.11.0", ["serve", "--config"], True),
        ("0.6.3.post1", ["--chat-template", "--x"], False),
    ],
)
def test_each_version_s_own_code_is_asked_in_the_way_it_can_answer(
    version: str, start: list[str], builds: bool
) -> None:
    made = plan(ONE, version=version, vllm_sources={"site_local": True})
    proof = made.instances[0].proof
    assert proof.builds == builds
    if version == "0.6.3.post1":
        assert "serve" not in proof.command
        assert proof.command[proof.command.index("--port") + 1] == "18500"
        assert proof.address == "127.0.0.1:18500"
        (start_line,) = [one for one in proof.drop_in if one.startswith("ExecStart=/")]
        assert start_line.startswith(f"ExecStart={made.release.path}/bin/python ")
        assert "--port 18500" in start_line
        assert "/opt/vllm/current" not in start_line
    else:
        assert proof.command[:2] == start


def test_what_is_tried_changes_no_digest() -> None:
    assert plan(ONE, memory=32768).digest == plan(ONE, memory=7000).digest


def test_how_many_releases_stay_is_part_of_the_plan() -> None:
    kept = plan(ONE, vllm_releases={"keep": 3})
    assert kept.keep_releases == 3
    assert kept.digest != plan(ONE).digest
    (problem,) = check_host("h", words([TEXT], vllm_releases={"keep": 1}), DATA).problems
    assert str(problem).startswith("h: vllm_releases.keep: given 1; allowed")


def test_the_double_s_name_is_taken() -> None:
    (problem,) = check_host("h", words([{**TEXT, "name": "a.trial"}]), DATA).problems
    assert "not .trial at the end" in str(problem)


def test_secrets_of_a_double_are_in_no_printed_plan() -> None:
    from vllm_ansible.cli.plan import shown_plan

    one = {**ONE, "env": {"HF_TOKEN": "very-secret-4711"}}
    checked = check_host(
        "h", words([one], vllm_models={"m": SIZED}), DATA, ["vllm_instances[0].env.HF_TOKEN"]
    )
    assert checked.words is not None, checked.problems
    on = facts("cpu-16-cores-avx512", memory_mib=32768)
    made = plan_host(checked.words, on, DATA, name="h")
    assert made.instances[0].trial is not None
    assert "4711" not in json.dumps(shown_plan(made))
