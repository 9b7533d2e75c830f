"""What an inventory may not say is refused, with host, variable, value given and values allowed."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_ansible.data import project_data
from vllm_ansible.schema import check_host, masked

ONE = {"name": "a", "model": "qwen2.5-0.5b-instruct"}
SOURCE = {"kind": "git-lfs", "url": "https://git.example.com/m.git"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = {"revision": COMMIT, "sources": [SOURCE]}


def check(sealed: tuple[str, ...] = (), **words: Any):
    words.setdefault("vllm_instances", [ONE])
    return check_host("h", words, project_data(), sealed)


def lines(sealed: tuple[str, ...] = (), **words: Any) -> list[str]:
    return [str(problem) for problem in check(sealed, **words).problems]


def one_instance(**more: Any) -> dict[str, Any]:
    return {"vllm_instances": [{**ONE, **more}]}


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    # words, the variable that is named, what the message says besides
    ({"vllm_engin": {}}, "vllm_engin", "did you mean vllm_engine?"),
    ({"vlm_instances": []}, "vlm_instances", "did you mean vllm_instances?"),
    ({"vllm_engine": {"devise": "cpu"}}, "vllm_engine.devise", "did you mean device?"),
    ({"vllm_engine": {"device": "tpu"}}, "vllm_engine.device", "'auto', 'cpu' or 'gpu'"),
    ({"vllm_engine": {"version": "0.31"}}, "vllm_engine.version", "0.31.0, 0.32.0"),
    ({"vllm_engine": {"version": "0.32.0"}}, "vllm_engine.python", "3.11, 3.12"),
    ({"vllm_engine": {"python": 3.1}}, "vllm_engine.python", 'write "3.10"'),
    ({"vllm_engine": {"python": "2.7"}}, "vllm_engine.python", '"3.10"'),
    ({"vllm_engine": {"version": "0.11.0"}}, "vllm_engine.version", "CVE-2026-48746"),
    ({"vllm_engine": {"accept_vulnerable": "perhaps"}}, "vllm_engine.accept_vulnerable", "boolean"),
    ({"vllm_engine": []}, "vllm_engine", "a mapping"),
    ({"vllm_instances": []}, "vllm_instances", "at least one instance"),
    ({"vllm_instances": ["a"]}, "vllm_instances[0]", "a mapping"),
    ({"vllm_instances": [{"name": "a"}]}, "vllm_instances[0].model", "it has no default"),
    (one_instance(port=0), "vllm_instances[0].port", "given 0; allowed greater than"),
    (one_instance(port=65536), "vllm_instances[0].port", "less than or equal to 65535"),
    (one_instance(port="http"), "vllm_instances[0].port", "integer"),
    (one_instance(name="a b"), "vllm_instances[0].name", "a-z 0-9"),
    (one_instance(name="a/../b"), "vllm_instances[0].name", "a-z 0-9"),
    (one_instance(name="x" * 64), "vllm_instances[0].name", "up to 62 more"),
    (one_instance(name=""), "vllm_instances[0].name", "a-z 0-9"),
    (one_instance(nam="b"), "vllm_instances[0].nam", "did you mean name?"),
    (one_instance(model="qwen2.5-0.5b"), "vllm_instances[0].model", "mean qwen2.5-0.5b-instruct?"),
    (one_instance(model="smolm2-135m"), "vllm_instances[0].model", "mean smollm2-135m-instruct?"),
    (one_instance(extra_args={"uds": "/x"}), "vllm_instances[0].extra_args.uds", "the plan sets"),
    (one_instance(extra_args={"--api_key": "s"}), "vllm_instances[0].extra_args.--api_key", "not"),
    (one_instance(env={"A": "x\ny"}), "vllm_instances[0].env.A", "one line"),
    (one_instance(env={"A": True}), "vllm_instances[0].env.A", "in quotes"),
    ({"vllm_models": {"m": {**MODEL, "revision": "main"}}}, "vllm_models.m.revision", "a commit"),
    ({"vllm_models": {"m": {"revision": COMMIT}}}, "vllm_models.m.sources", "no default"),
    (
        {"vllm_models": {"m": {**MODEL, "files": {"f": {"size": 1, "sha256": "abc"}}}}},
        "vllm_models.m.files.f.sha256",
        "64 characters",
    ),
    (
        {"vllm_models": {"m": {**MODEL, "sources": [{**SOURCE, "kind": "ftp"}]}}},
        "vllm_models.m.sources[0].kind",
        "'git-lfs'",
    ),
    (
        {"vllm_sources": {"conda": {"default_channels": ["https://repo.anaconda.com/pkgs/main"]}}},
        "vllm_sources.conda.default_channels",
        "a mirror of it, or conda-forge",
    ),
    (
        {
            "vllm_sources": {
                "conda": {"custom_channels": {"main": "https://repo.anaconda.com/pkgs"}}
            }
        },
        "vllm_sources.conda.custom_channels",
        "until its terms are accepted",
    ),
    ({"vllm_sources": {"profile": "tuma"}}, "vllm_sources.profile", "did you mean tuna?"),
    ({"vllm_sources": {"profile": "custom"}}, "vllm_sources.miniconda.mirrors", "at least one"),
    (
        {"vllm_sources": {"miniconda": {"version": "py310_1"}}},
        "vllm_sources.miniconda.version",
        "or sha256 beside it",
    ),
    (
        {"vllm_sources": {"miniconda": {"sha256": "F" * 64}}},
        "vllm_sources.miniconda.sha256",
        "64 characters",
    ),
    ({"vllm_gateway": {"listen": ["localhost"]}}, "vllm_gateway.listen[0]", "IPv4 or IPv6"),
    ({"vllm_gateway": {"listen": []}}, "vllm_gateway.listen", "at least 1"),
    ({"vllm_gateway": {"api_key_file": "key"}}, "vllm_gateway.api_key_file", "absolute path"),
    ({"vllm_gateway": {"api_key_file": "/no/key"}}, "vllm_gateway.api_key_file", "No such file"),
]


@pytest.mark.parametrize(("words", "variable", "says"), REFUSED)
def test_refused(words, variable, says):
    found = [line for line in lines(**words) if line.startswith(f"h: {variable}: ")]
    assert len(found) == 1, lines(**words)
    assert says in found[0]
    assert check(**words).words is None


def test_all_errors_are_told_at_once():
    found = lines(
        vllm_engin=1,
        vllm_engine={"version": "0.7", "device": "tpu"},
        vllm_instances=[{**ONE, "port": 0}, {**ONE, "name": "B", "model": "x"}],
        vllm_gateway={"listen": ["here"]},
    )
    named = [line.split(": ")[1] for line in found]
    assert named == [
        "vllm_engin",
        "vllm_engine.device",
        "vllm_engine.version",
        "vllm_gateway.listen[0]",
        "vllm_instances[0].port",
        "vllm_instances[1].model",
        "vllm_instances[1].name",
    ]


@pytest.mark.parametrize("key", ["name", "port"])
def test_two_instances_do_not_share_a_name_or_port(key):
    first = {**ONE, "name": "a", "port": 8001}
    second = {**ONE, "name": "b", "port": 8002} | {key: first[key]}
    (line,) = lines(vllm_instances=[first, second])
    assert line.startswith(f"h: vllm_instances[1].{key}: given {first[key]!r}")
    assert "vllm_instances[0] has the same" in line


def test_the_default_port_counts_as_a_port():
    (line,) = lines(vllm_instances=[ONE, {**ONE, "name": "b", "port": "8000"}])
    assert "vllm_instances[1].port" in line


@pytest.mark.parametrize(
    "url", ["https://me:hunter2@git.example.com/m", "https://hunter2@git.example.com/m"]
)
def test_a_password_in_a_url_is_refused_and_not_repeated(url):
    model = {**MODEL, "sources": [{**SOURCE, "url": url}]}
    found = lines(vllm_models={"m": model})
    assert [line for line in found if line.startswith("h: vllm_models.m.sources[0].url: ")]
    assert "hunter2" not in "".join(found)


def test_ssh_may_name_its_user():
    model = {**MODEL, "sources": [{**SOURCE, "url": "ssh://git@git.example.com/m"}]}
    assert lines(vllm_models={"m": model}) == []


def test_passwords_are_masked_in_any_text():
    assert masked("see https://u:p@h/x and http://h/") == "see https://***@h/x and http://h/"


@pytest.mark.parametrize("name", ["HF_TOKEN", "MY_API_KEY", "PASSWORD", "aws_secret"])
def test_a_secret_of_the_environment_in_clear_text_is_refused_and_not_repeated(name):
    words = one_instance(env={name: "hunter2"})
    (line,) = lines(**words)
    assert line.startswith(f"h: vllm_instances[0].env.{name}: given a secret in clear text")
    assert "hunter2" not in line
    assert lines((f"vllm_instances[0].env.{name}",), **words) == []


@pytest.mark.parametrize("name", ["hf-token", "hf_token", "some-password"])
def test_a_secret_option_in_clear_text_is_refused_and_not_repeated(name):
    words = one_instance(extra_args={name: "hunter2"})
    (line,) = lines(**words)
    assert line.startswith(f"h: vllm_instances[0].extra_args.{name}: given a secret in clear text")
    assert "hunter2" not in line
    assert lines((f"vllm_instances[0].extra_args.{name}",), **words) == []


@pytest.mark.parametrize("name", ["VLLM_LOGGING_LEVEL", "MONKEY", "KEYBOARD"])
def test_harmless_names_of_the_environment(name):
    assert lines(**one_instance(env={name: 1})) == []


def test_an_api_key_in_clear_text_is_refused_and_not_repeated():
    found = lines(vllm_gateway={"api_key": "hunter2hunter2hunter2"})
    assert len(found) == 1
    assert "hunter2" not in found[0]
    assert "!vault" in found[0]


def test_a_vaulted_api_key_passes_and_does_not_show():
    checked = check(("vllm_gateway.api_key",), vllm_gateway={"api_key": "hunter2hunter2hunter2"})
    assert checked.problems == []
    assert "hunter2" not in repr(checked.words)


def test_a_vaulted_key_that_a_header_cannot_carry_is_refused_and_not_repeated():
    sealed = ("vllm_gateway.api_key",)
    (line,) = lines(sealed, vllm_gateway={"api_key": 'hunter2"; hunter2 hunter2'})
    assert "hunter2" not in line
    assert "16 to 256 characters" in line


@pytest.mark.parametrize(
    ("mode", "content", "says"),
    [
        (0o644, "k" * 20, "chmod 600"),
        (0o600, "short", "16 to 256"),
        (0o600, "k" * 20 + "\n", None),
    ],
)
def test_the_api_key_file_is_readable_by_its_owner_and_holds_one_key(tmp_path, mode, content, says):
    file = tmp_path / "key"
    file.write_text(content, "utf-8")
    file.chmod(mode)
    found = lines(vllm_gateway={"api_key_file": str(file)})
    if says is None:
        assert found == []
    else:
        assert len(found) == 1
        assert says in found[0]
        assert content not in found[0]


def test_a_number_in_quotes_is_a_number():
    words = check(**one_instance(port="8001", kv_cache_gib="2")).words
    assert words is not None
    assert (words.instances[0].port, words.instances[0].kv_cache_gib) == (8001, 2)


def test_a_vulnerable_version_installs_when_the_inventory_accepts_it():
    engine = {"version": "0.30.0", "accept_vulnerable": "yes"}
    assert lines(vllm_engine=engine) == []


def test_the_inventory_adds_models():
    assert lines(vllm_models={"m": MODEL}, **one_instance(model="m")) == []


def test_what_the_project_itself_sets_is_not_taken_for_a_word():
    assert lines(vllm_data_versions={}, vllm_plan={}, vllm_receipt={}, vllm_release_uv="1") == []


@pytest.mark.parametrize(("given", "fast"), [(False, False), ("false", False), ("true", True)])
def test_the_fast_path_is_switched_also_by_what_the_command_line_says(given, fast):
    words = check(vllm_fast_path=given).words
    assert words is not None
    assert words.fast_path is fast


def test_the_fast_path_is_on_or_off():
    (line,) = lines(vllm_fast_path="sometimes")
    assert "vllm_fast_path" in line
    assert "allowed true or false" in line
