"""The lock files are there, whole and of today's data; how they are made from an index."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from tests.standins.package_index import PackageIndex, serving
from vllm_ansible import paths
from vllm_ansible.cli.lock_engine import app
from vllm_ansible.data import Lock, Resolve, VllmVersion, project_data, read_lock
from vllm_ansible.locking import sdist
from vllm_ansible.locking.lock import Target, flaw, make, strangers, targets, write
from vllm_ansible.locking.uv import LockError

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSIONS = project_data().versions
EVERY = [(one, source) for one in targets(VERSIONS) for source in one.sources]
KNOWN = VllmVersion(python=">=3.10", torch="1.0", devices=["cpu", "gpu"])
CPU, GPU = Target("9.0", "cpu", "3.10"), Target("9.0", "gpu", "3.10")


@pytest.mark.parametrize(("target", "source"), EVERY, ids=[o.filename(s) for o, s in EVERY])
def test_what_an_inventory_may_ask_for_is_locked_with_all_its_hashes(target, source):
    assert flaw(paths.LOCKS, target, source, VERSIONS.vllm[target.version]) is None


def test_every_lock_file_is_of_something_supported():
    assert strangers(paths.LOCKS, VERSIONS) == []


def test_no_lock_names_an_address():
    for path in paths.LOCKS.glob("*.txt"):
        text = path.read_text("utf-8")
        assert "://" not in text
        assert not re.search(r"--(extra-)?index|--find-links|--trusted", text)


def test_the_seeds_own_words_are_in_the_locks_of_their_versions():
    locks = project_data().locks
    assert "nvidia-nccl-cu12==2.20.5" in locks["0.5.0.post1", "gpu", "3.10", "default-index"].pins
    for device in ("cpu", "gpu"):
        pins = locks["0.6.3.post1", device, "3.10", "default-index"].pins
        assert "transformers==4.46.2" in pins
        assert any(pin.startswith("setuptools==") for pin in pins)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with the lock of a GPU."""
    lock = Lock(pins=["torch==1.0", "vllm==9.0"], hashes={"torch": ["a" * 64], "vllm": ["b" * 64]})
    write(tmp_path / GPU.filename("default-index"), GPU, "default-index", KNOWN, lock)
    return tmp_path


def test_a_lock_is_read_as_it_was_written(written):
    path = written / GPU.filename("default-index")
    assert read_lock(path).hashes == {"torch": ["a" * 64], "vllm": ["b" * 64]}
    assert flaw(written, GPU, "default-index", KNOWN) is None


def test_a_missing_a_stale_and_a_torn_lock_are_told_apart(written):
    assert flaw(written, CPU, "cpu-index", KNOWN) == "missing"
    other = KNOWN.model_copy(update={"resolve": Resolve(before="2026-01-01")})
    assert "stale" in str(flaw(written, GPU, "default-index", other))
    path = written / GPU.filename("default-index")
    path.write_text(path.read_text().replace(f" \\\n    --hash=sha256:{'a' * 64}", ""))
    assert "no hash for ['torch']" in str(flaw(written, GPU, "default-index", KNOWN))
    path.write_text(path.read_text().replace("torch==1.0\n", ""))
    assert "does not pin torch" in str(flaw(written, GPU, "default-index", KNOWN))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    """An index with an engine, and torch and its like as its needs; uv knows no other."""
    with serving(tmp_path / "index") as served:
        monkeypatch.setenv("UV_DEFAULT_INDEX", served.url)
        monkeypatch.setenv("UV_NO_CONFIG", "1")
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
        served.add("vllm", "9.0", needs=("torch==1.0", "one", "unwanted"))
        served.add("torch", needs=("triton==2.0", "nvidia_nccl==1.0"))
        for name, version in {"nvidia_nccl": "1.0", "unwanted": "1.0", "triton": "2.0"}.items():
            served.add(name, version)
        served.add("torchvision", "0.1", needs=("torch==1.0",))
        served.add("one", "1.0")
        yield served


def test_a_lock_has_the_newest_and_the_hashes_that_a_host_can_use(index: PackageIndex) -> None:
    suits = index.add("one", "2.0", tag="cp310-cp310-manylinux_2_28_x86_64")
    for tag in ("cp310-cp310-win_amd64", "cp311-cp311-manylinux_2_28_x86_64"):
        index.add("one", "2.0", tag=tag)
    lock = make(GPU, KNOWN, [])["default-index"]
    assert {"one==2.0", "torch==1.0", "vllm==9.0", "unwanted==1.0"} <= set(lock.pins)
    assert lock.hashes["one"] == [suits]
    assert set(lock.hashes) == {pin.split("==")[0] for pin in lock.pins}


def test_old_pins_stay_where_they_can(index: PackageIndex) -> None:
    index.add("one", "2.0")
    assert "one==1.0" in make(GPU, KNOWN, ["one==1.0", "vllm==8.0"])["default-index"].pins


def test_the_data_say_what_else_to_resolve(index: PackageIndex) -> None:
    for version in ("2.20", "3.0"):
        index.add("nvidia_nccl", version)
    index.add("setuptools", "75.0")
    said = Resolve(
        pins=["setuptools==75.0"], overrides=["nvidia-nccl==2.20"], leave_out=["unwanted"]
    )
    pins = make(GPU, KNOWN.model_copy(update={"resolve": said}), [])["default-index"].pins
    assert {"setuptools==75.0", "nvidia-nccl==2.20"} <= set(pins)
    assert "unwanted==1.0" not in pins


def test_another_torch_than_the_data_have_is_no_lock(index: PackageIndex) -> None:
    with pytest.raises(LockError, match=r"has torch 3\.0, vLLM wants torch==1\.0"):
        make(GPU, KNOWN.model_copy(update={"torch": "3.0"}), [])


def test_what_cannot_be_resolved_is_said_in_uvs_words(index: PackageIndex) -> None:
    index.add("vllm", "9.1", needs=("torch==7.0",))
    with pytest.raises(LockError, match=r"torch==7\.0"):
        make(Target("9.1", "gpu", "3.10"), KNOWN, [])


FILES = {
    "requirements/common.txt": "one # why\n# nothing\nunwanted; python_version < '3'\n",
    "requirements/cpu.txt": (
        "-r common.txt\n--extra-index-url https://example.org/cpu\ntorch==1.0+cpu\ntorchvision\n"
        "wheel @ https://example.org/wheel.whl ; python_version == '3.10'\n"
    ),
    "setup.py": "",
}


def source_package(index: PackageIndex, files: dict[str, str]) -> Path:
    path = index.folder / "vllm" / "vllm-9.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"vllm-9.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    index.link(path)
    return path


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    sdist.cpu_requirements.cache_clear()


def test_the_cpu_list_is_that_of_the_source_package(index: PackageIndex) -> None:
    source_package(index, FILES)
    asked = sdist.cpu_requirements("9.0", "3.10")
    assert asked == ["one", "unwanted; python_version < '3'", "torch==1.0+cpu", "torchvision"]


def test_the_two_locks_for_cpu_differ_by_torch_and_what_cuda_needs(index: PackageIndex) -> None:
    source_package(index, FILES)
    made = make(CPU, KNOWN, [])
    default, cpu = made["default-index"], made["cpu-index"]
    assert set(default.pins) == {
        "nvidia-nccl==1.0", "one==1.0", "torch==1.0", "torchvision==0.1", "triton==2.0",
        "vllm==9.0+cpu",
    }  # fmt: skip
    # torchvision is built with torch, for the same device, and comes from the same index.
    vision = "torchvision==0.1+cpu"
    assert set(cpu.pins) == {"one==1.0", "torch==1.0+cpu", vision, "vllm==9.0+cpu"}
    assert (set(default.hashes), set(cpu.hashes)) == (
        {"nvidia-nccl", "one", "torch", "torchvision", "triton"},
        {"one"},
    )


def test_a_triton_that_the_cpu_list_asks_for_stays(index: PackageIndex) -> None:
    text = FILES["requirements/cpu.txt"] + "triton==2.0\n"
    source_package(index, {**FILES, "requirements/cpu.txt": text})
    assert "triton==2.0" in make(CPU, KNOWN, [])["cpu-index"].pins


def test_a_source_package_that_is_not_what_its_index_says_is_refused(index: PackageIndex) -> None:
    path = source_package(index, FILES)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(LockError, match="another checksum"):
        sdist.cpu_requirements("9.0", "3.10")


def test_a_source_package_without_a_list_for_the_cpu_is_said_so(index: PackageIndex) -> None:
    source_package(index, {"requirements/cuda.txt": "torch\n"})
    with pytest.raises(LockError, match=r"none of requirements/cpu\.txt, requirements-cpu\.txt"):
        sdist.cpu_requirements("9.0", "3.10")


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.output


def test_check_ends_with_0_where_all_is_well_and_1_where_a_lock_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("--all", "--check")[0] == 0
    folder = tmp_path / "locks"
    folder.mkdir()
    (folder / "vllm-0.1-cpu-py3.10-cpu-index.txt").write_text("a==1\n")
    monkeypatch.setattr(paths, "LOCKS", folder)
    status, output = run("--all", "--check")
    assert status == 1
    assert "vllm-0.31.0-cpu-py3.10-cpu-index.txt: missing" in output
    assert "vllm-0.1-cpu-py3.10-cpu-index.txt: versions.yml does not support it" in output


@pytest.mark.parametrize(
    "words", [[], ["0.31.0", "--all"], ["0.1", "--check"], ["0.31.0", "--python", "2.7"]]
)
def test_wrong_usage_ends_with_2(words):
    assert run(*words)[0] == 2


def test_what_could_not_be_made_ends_with_1_and_leaves_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LockError("no answer")

    monkeypatch.setattr("vllm_ansible.cli.lock_engine.make", fail)
    monkeypatch.setattr(paths, "LOCKS", tmp_path)
    status, output = run("0.31.0", "--device", "gpu", "--python", "3.10")
    assert status == 1
    assert "vLLM 0.31.0, gpu, Python 3.10: no answer" in output
    assert list(tmp_path.iterdir()) == []
