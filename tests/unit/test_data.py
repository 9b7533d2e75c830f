"""The project's data is typed, sorted and complete."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from typing import Any

import pytest
import yaml

from vllm_ansible import paths
from vllm_ansible.data import DataError, code_digest, load_data, project_data, read_lock
from vllm_ansible.schema.models import check_model
from vllm_ansible.versions import problems

# Beside a torch for CPU they break `import transformers`.
BUILT_FOR_CUDA = ("torchaudio=", "torchcodec=")


def read(name: str) -> Any:
    return next(iter(yaml.safe_load((paths.DATA / name).read_text("utf-8")).values()))


def test_names_in_the_data_are_sorted():
    versions = read("versions.yml")
    assert list(versions["flags"]) == sorted(versions["flags"])
    models = read("models.yml")
    assert list(models) == sorted(models)
    profiles = read("mirrors.yml")["profiles"]
    assert list(profiles) == sorted(profiles)


def test_the_catalogue_of_models_is_whole():
    for name, model in project_data().models.items():
        assert list(check_model(model)) == [], name
        urls = [source.url for source in model.sources]
        assert all(url.startswith("https://") for url in urls), name
        assert len({(one.kind, one.url) for one in model.sources}) == len(urls), name
        # Data has no secrets, and a place on a host is no catalogue's business.
        assert not any(one.token or one.token_file for one in model.sources), name
        assert {one.kind for one in model.sources} <= {"git-lfs", "huggingface", "modelscope"}
        # A hub whose commit is not known is asked for what is known, and for nothing else.
        pinned = [one for one in model.sources if one.branch is None]
        assert pinned, name
        assert all(re.fullmatch(r"[0-9a-f]{40}", one.revision or model.revision) for one in pinned)


def test_the_catalogues_manifests_are_complete_and_chosen():
    for name, model in project_data().models.items():
        if not model.files:
            continue
        assert list(model.files) == sorted(model.files), name
        assert "config.json" in model.files, name
        assert any(file.endswith(".safetensors") for file in model.files), name
        assert all(
            any(fnmatch(file, pattern) for pattern in model.include) for file in model.files
        ), name
        shards = {re.search(r"-of-(\d+)\.", file) for file in model.files}
        wanted = max((int(one[1]) for one in shards if one), default=0)
        assert len([one for one in shards if one]) == wanted, name
        assert ("model.safetensors.index.json" in model.files) == bool(wanted), name


def test_miniconda_installers_are_sorted_and_whole():
    assert problems((paths.DATA / "versions.yml").read_text("utf-8")) == []


def test_vllm_versions_and_floors_go_up():
    data = project_data().versions

    def key(version: str) -> list[int]:
        return [int(n) for n in re.findall(r"\d+", version)]

    assert list(data.vllm) == sorted(data.vllm, key=key)
    floors = [floor.fixed_in for floor in data.security_floors]
    assert floors == sorted(floors, key=key)
    gpus = [floor.vllm_from for floor in data.gpu_floors]
    assert gpus == sorted(gpus, key=key)
    assert gpus[0] == next(iter(data.vllm))


def test_the_defaults_are_among_what_is_known_and_locked():
    data = project_data()
    versions = data.versions
    assert versions.vllm[versions.default_vllm].supports(versions.default_python)
    assert versions.default_miniconda in versions.miniconda
    assert data.mirrors.default_profile in data.mirrors.profiles
    for source in ("cpu-index", "default-index"):
        assert (versions.default_vllm, "cpu", versions.default_python, source) in data.locks


def test_every_lock_is_of_its_engine_and_the_cpu_index_needs_nothing_of_cuda():
    for (version, device, _, source), lock in project_data().locks.items():
        assert f"vllm=={version}" + ("+cpu" if device == "cpu" else "") in lock.pins
        if device == "cpu":
            assert not any(pin.startswith(BUILT_FOR_CUDA) for pin in lock.pins)
        if source == "cpu-index":
            # triton stays only where the CPU's own list asks for it, as that of 0.11.0 does.
            foreign = ("nvidia-", "cuda-", *(() if version == "0.11.0" else ("triton=",)))
            assert not any(pin.startswith(foreign) for pin in lock.pins)
            for name in ("torch", "torchvision"):
                pin = next(pin for pin in lock.pins if pin.startswith(f"{name}=="))
                assert pin.endswith("+cpu")


@pytest.mark.parametrize(
    ("version", "flaws"),
    [
        ("0.31.0", ["PYSEC-2026-4344", "PYSEC-2026-4349"]),
        ("0.32.0", []),
    ],
)
def test_known_flaws_of_a_version(version, flaws):
    found = project_data().versions.flaws(version)
    assert [name for floor in found for name in floor.ids] == flaws


def test_dead_channels_are_not_used():
    text = (paths.DATA / "mirrors.yml").read_text("utf-8")
    urls = re.findall(r"https?://\S+", text)
    for dead in ("pkgs/free", "pkgs/r", "pkgs/msys2", "cloud/pytorch"):
        assert not any(dead in url for url in urls)


@pytest.mark.parametrize("content", ["[", "- a", "vllm_data_versions: {default_vllm: 1}", "a: 1"])
def test_wrong_data_is_named(tmp_path, content):
    for name in ("mirrors.yml", "models.yml"):
        (tmp_path / name).write_text((paths.DATA / name).read_text("utf-8"), "utf-8")
    (tmp_path / "versions.yml").write_text(content, "utf-8")
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        load_data(tmp_path, paths.LOCKS)


def test_a_lock_file_must_say_what_it_locks(tmp_path):
    (tmp_path / "vllm.txt").write_text("a==1\n", "utf-8")
    with pytest.raises(DataError, match="does not say version"):
        load_data(paths.DATA, tmp_path)


@pytest.mark.parametrize("line", ["a", "a>=1", "a==1 --hash=md5:0", "a==1\na==2", "A==1"])
def test_a_line_of_a_lock_that_is_no_pin_is_named(tmp_path, line):
    path = tmp_path / "vllm-1-cpu-py3.10-cpu-index.txt"
    path.write_text(f"{line}\n", "utf-8")
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_lock(path)


def test_a_lock_has_pins_and_the_hashes_of_their_files(tmp_path):
    path = tmp_path / "vllm-1-cpu-py3.10-cpu-index.txt"
    one, two = "1" * 64, "2" * 64
    hashed = f"a-b==1 \\\n    --hash=sha256:{one} \\\n    --hash=sha256:{two}"
    path.write_text(f"# a comment\n{hashed}\nvllm==1+cpu\n", "utf-8")
    lock = read_lock(path)
    assert lock.pins == ["a-b==1", "vllm==1+cpu"]
    assert lock.hashes == {"a-b": [one, two]}


@pytest.mark.parametrize("part", ["tasks", "files", "templates", "vars"])
def test_a_changed_role_changes_the_code_digest_and_a_readme_does_not(tmp_path, part):
    tasks = tmp_path / "roles" / "one" / part
    tasks.mkdir(parents=True)
    (tasks / "main.yml").write_text("- a", "utf-8")
    before = code_digest(tmp_path)
    (tmp_path / "roles" / "one" / "README.md").write_text("words", "utf-8")
    assert code_digest(tmp_path) == before
    (tasks / "main.yml").write_text("- b", "utf-8")
    assert code_digest(tmp_path) != before
