"""Every kind of source ends in the same snapshot or in a clear error; the clients are real."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.standins.hubs import Hubs, sha256
from tests.unit.modules.conftest import BOOTSTRAP, ROOT, ModuleRunner, write_program
from tests.unit.modules.test_model_snapshot import git

REVISION = "a" * 40
MIB = 1 << 20
# More than twice what `hf` keeps back before it writes (10 MiB).
WEIGHTS = os.urandom(24 * MIB)
SMALL = {"config.json": b'{"a": 1}\n', "sub/vocab.txt": b"one\ntwo\n"}
FILES = {**SMALL, "model.safetensors": WEIGHTS}
TOKEN = "hf_" + "s3cr3t" * 5
KINDS = ["git-lfs", "huggingface", "modelscope"]


def manifest(files: dict[str, bytes]) -> dict[str, Any]:
    return {name: {"size": len(data), "sha256": sha256(data)} for name, data in files.items()}


class Place:
    """Where a snapshot shall be, and the sources that have it."""

    def __init__(self, tmp_path: Path, hubs: Hubs, clients: Path) -> None:
        self.tmp, self.hubs, self.clients = tmp_path, hubs, clients
        self.revision = REVISION
        self.models = tmp_path / "models/tiny"
        self.module = ModuleRunner("model_snapshot")

    @property
    def path(self) -> Path:
        return self.models / REVISION

    @property
    def partial(self) -> Path:
        return self.models / f".{REVISION}.partial"

    def offer(self, files: dict[str, bytes]) -> None:
        self.hubs.models["own/tiny", REVISION] = files

    def offer_git(self, files: dict[str, bytes]) -> dict[str, Any]:
        source = self.tmp / f"source-{len(list(self.tmp.glob('source-*')))}"
        source.mkdir()
        git(source, "init", "--quiet", "--initial-branch=main")
        git(source, "lfs", "install", "--local", "--skip-repo")
        git(source, "lfs", "track", "*.safetensors", "*.bin")
        for name, data in files.items():
            (source / name).parent.mkdir(exist_ok=True)
            (source / name).write_bytes(data)
        git(source, "add", "--all")
        git(source, "commit", "--quiet", "--message", "model")
        url = self.hubs.add_git(source, source.name)
        return {"kind": "git-lfs", "url": url, "revision": git(source, "rev-parse", "HEAD")}

    def source(self, kind: str, files: dict[str, bytes] = FILES) -> dict[str, Any]:
        if kind == "git-lfs":
            return self.offer_git(files)
        self.offer(files)
        return {"kind": kind, "url": f"{self.hubs.url}/own/tiny"}

    def params(self, *sources: dict[str, Any], **changes: Any) -> dict[str, Any]:
        params = {"name": "tiny", "revision": REVISION, "path": str(self.path)}
        # What git keeps of itself is no file of the model.
        include = {"include": ["*.json", "*.txt", "*.safetensors", "*.bin"]}
        own = {"sources": list(sources), "clients": str(self.clients)}
        return {**params, **include, **own, **changes}

    def run(self, *sources: dict[str, Any], fails: bool = False, **changes: Any) -> dict[str, Any]:
        return self.module(fails=fails, **self.params(*sources, **changes))

    def holds(self, files: dict[str, bytes] = FILES) -> bool:
        found = [p for p in self.path.rglob("*") if p.is_file()]
        return {str(p.relative_to(self.path)): p.read_bytes() for p in found} == files


@pytest.fixture
def place(tmp_path: Path, hubs: Hubs, clients: Path) -> Place:
    return Place(tmp_path, hubs, clients)


@pytest.mark.parametrize("kind", KINDS)
def test_each_hub_ends_in_the_same_snapshot(place: Place, kind: str) -> None:
    source = place.source(kind)
    result = place.run(source)
    assert place.holds()
    assert result["files"] == manifest(FILES)
    assert result["proof"] == ("git" if kind == "git-lfs" else "hub")
    warned = "itself says what its files must be" in str(result.get("warnings"))
    assert warned == (kind != "git-lfs")
    assert json.loads((place.models / f"{REVISION}.json").read_text())["proof"] == result["proof"]
    assert not place.partial.exists()
    assert not place.run(source)["changed"]
    assert place.run(source, verify="full")["proof"] == result["proof"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_that_is_given_proves_whatever_a_hub_says(place: Place, kind: str) -> None:
    source = place.source(kind)
    assert place.run(source, files=manifest(FILES))["proof"] == "given"
    assert place.holds()
    other = {**FILES, "model.safetensors": b"x" * len(WEIGHTS)}
    wrong = place.run(source, files=manifest(other), path=f"{place.path}2", fails=True)
    assert "the given manifest says" in wrong["msg"]
    assert not Path(f"{place.path}2").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_that_is_cut_is_gone_on_with_and_little_comes_again(
    place: Place, kind: str
) -> None:
    source = place.source(kind)
    place.hubs.cut = 11 * MIB
    # modelscope and git-lfs try again by themselves, and may end well already.
    begin(place, place.params(source)).communicate(timeout=300)
    place.hubs.cut = None
    place.run(source)
    assert place.holds()
    starts = [one.start for one in place.hubs.asked if one.sent]
    assert any(starts), "nothing was gone on with"
    # hf writes 10 MiB at a time, and loses what is not a whole one.
    assert place.hubs.sent() - len(WEIGHTS) <= (2 * MIB if kind == "huggingface" else 1024)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("git-lfs", "huggingface"),
        ("huggingface", "modelscope"),
        ("modelscope", "files"),
        ("files", "git-lfs"),
    ],
)
def test_what_one_source_has_begun_another_one_ends(
    place: Place, mirror: Callable[[], dict[str, Any]], first: str, second: str
) -> None:
    sources = [mirror() if k == "files" else place.source(k) for k in (first, second)]
    part = place.partial / "store/parts" / sha256(WEIGHTS)
    part.parent.mkdir(parents=True)
    part.write_bytes(WEIGHTS[: 20 * MIB])
    # The first one gets the file's list and no byte of it, and hands the beginning back.
    place.hubs.gone = True
    failed = place.run(sources[0], fails=True)
    assert "could not be had whole" in failed["msg"]
    place.hubs.gone = False
    result = place.run(sources[1])
    assert result["resumed_bytes"] >= 20 * MIB
    assert place.holds()
    # hf has kept whole pieces of 10 MiB alone.
    assert place.hubs.sent("safetensors") + place.hubs.sent("/lfs/") <= 5 * MIB


@pytest.fixture
def mirror(place: Place) -> Callable[[], dict[str, Any]]:
    """A plain server of the files, as a site's mirror host is one."""

    def make() -> dict[str, Any]:
        assert place.hubs.static
        root = place.hubs.static / REVISION
        for name, data in FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        (place.hubs.static / f"{REVISION}.json").write_text(json.dumps(manifest(FILES)))
        return {"kind": "files", "url": f"{place.hubs.url}/static/{REVISION}/"}

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_leaves_what_the_next_one_needs(place: Place, kind: str) -> None:
    source = place.source(kind)
    # Slow enough to be caught in the middle: the stand-in waits after each of these.
    place.hubs.slow = 4 * MIB
    process = begin(place, place.params(source))
    assert until(lambda: biggest(place.partial) >= 10 * MIB)
    kill_tree(process.pid)
    process.wait()
    place.hubs.slow = None
    before = biggest(place.partial)
    place.hubs.asked.clear()
    result = place.run(source)
    assert place.holds()
    assert result["resumed_bytes"] >= before
    assert place.hubs.sent() <= len(WEIGHTS) - before + MIB


def begin(place: Place, params: dict[str, Any]) -> subprocess.Popen[str]:
    """Start the module and leave it at work."""
    process = subprocess.Popen(
        [sys.executable, "-c", BOOTSTRAP, str(ROOT / "module_utils"), str(place.module.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdin
    process.stdin.write(json.dumps({**params, "_ansible_remote_tmp": "/tmp"}))
    process.stdin.close()
    process.stdin = None
    return process


def biggest(root: Path) -> int:
    sizes = [0]
    for file in root.rglob("*"):
        try:
            sizes.append(file.stat().st_size if file.is_file() else 0)
        except FileNotFoundError:
            continue
    return max(sizes)


def until(found: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found():
            return True
        time.sleep(0.05)
    return False


def kill_tree(pid: int) -> None:
    """Kill a process and what it started, which has sessions of its own."""
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    for child in children:
        kill_tree(int(child))
    # A child may have ended by itself since it was seen.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_a_stub_and_a_short_file_are_refused(place: Place, kind: str) -> None:
    source = place.source(kind)
    oid = sha256(WEIGHTS)
    stub = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(WEIGHTS)}\n"
    for bad in (bytes([WEIGHTS[0] ^ 1]) + WEIGHTS[1:], WEIGHTS[:-1], stub.encode()):
        place.hubs.said = {"model.safetensors": WEIGHTS}
        if kind == "git-lfs":
            assert place.hubs.git
            (place.hubs.git / "lfs" / oid).write_bytes(bad)
        else:
            place.offer({**FILES, "model.safetensors": bad})
        failed = place.run(source, fails=True)
        assert "model.safetensors: " in failed["msg"]
        assert not place.path.exists()


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_a_pointer_that_the_hub_itself_calls_the_file_is_refused(place: Place, kind: str) -> None:
    stub = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"
    source = place.source(kind, {**SMALL, "model.safetensors": stub.encode()})
    assert "is an LFS pointer and not the file" in place.run(source, fails=True)["msg"]
    assert not place.path.exists()


@pytest.mark.parametrize("kind", [*KINDS, "archive"])
def test_a_shard_that_an_index_names_and_nobody_has_is_missed(place: Place, kind: str) -> None:
    shard, index = "model-00001-of-00002.safetensors", "model.safetensors.index.json"
    names = {"a": shard, "b": "model-00002-of-00002.safetensors"}
    files = {shard: WEIGHTS, index: json.dumps({"weight_map": names}).encode(), **SMALL}
    source = archive(place, "x.tar", files) if kind == "archive" else place.source(kind, files)
    failed = place.run(source, fails=True)
    assert f"{index} names model-00002-of-00002.safetensors" in failed["msg"]
    assert place.hubs.sent() == 0
    assert not place.path.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_revision_that_a_hub_lacks_is_refused(place: Place, kind: str) -> None:
    source = {**place.source(kind), "revision": "b" * 40}
    assert "b" * 40 in place.run(source, fails=True)["msg"]


def test_a_branch_brings_only_what_the_manifest_lists(place: Place) -> None:
    place.hubs.models["own/tiny", "master"] = {**FILES, "new.json": b"{}"}
    source = {"kind": "modelscope", "url": f"{place.hubs.url}/own/tiny", "branch": "master"}
    result = place.run(source, files=manifest(FILES))
    assert result["proof"] == "given"
    assert place.holds()


@pytest.mark.parametrize("name", ["../evil", "--local-dir=evil", ".git/config"])
def test_a_hub_cannot_lead_outside_nor_give_its_client_options(place: Place, name: str) -> None:
    source = place.source("huggingface", {**SMALL, name: b"{}"})
    assert "which is refused" in place.run(source, fails=True, include=["*"])["msg"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_opens_a_gated_model_and_stays_nowhere(
    place: Place, kind: str, programs: Path
) -> None:
    source = place.source(kind)
    place.hubs.token = TOKEN
    closed = place.run(source, fails=True)["msg"]
    assert "401" in closed or "could not read" in closed or "Authentication failed" in closed
    seen = place.tmp / "argv"
    real = place.clients
    place.clients = place.tmp / "clients"
    for name, path in (("git", "/usr/bin/git"), ("git-lfs", "/usr/bin/git-lfs")):
        write_program(programs / name, recorder(seen, path))
    for name in ("hf", "modelscope"):
        write_program(place.clients / "bin" / name, recorder(seen, str(real / "bin" / name)))
    home = place.tmp / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(f"[credential]\n\thelper = store --file {home}/stored\n")
    params = place.params({**source, "credential": "ours"}, tokens={"ours": TOKEN})
    result = place.module(env={"HOME": str(home)}, **params)
    assert place.holds()
    assert TOKEN not in json.dumps(result)
    assert {"git-lfs": "git-lfs", "huggingface": "/hf ", "modelscope": "/modelscope "}[
        kind
    ] in seen.read_text()
    # The module's own arguments came by standard input.
    left = [p for p in place.tmp.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert left == []
    # The second host, to which the hub sends for large files, was not told.
    assert {one.authorization for one in place.hubs.asked if one.sent} == {None}
    bad = place.module(
        env={"HOME": str(home)}, fails=True, **{**params, "tokens": {"ours": "wrong-" + TOKEN},
        "path": f"{place.path}2"},
    )  # fmt: skip
    assert TOKEN not in json.dumps(bad)


def recorder(seen: Path, program: str) -> str:
    """A program that notes its arguments and becomes another one."""
    return f'#!/bin/sh\necho "$0 $*" >> {seen}\nexec {program} "$@"\n'


def test_a_missing_token_is_said_before_anybody_is_asked(place: Place) -> None:
    source = {**place.source("huggingface"), "credential": "ours"}
    assert "its token was not handed over" in place.run(source, fails=True)["msg"]
    assert place.hubs.asked == []


def archive(place: Place, name: str, files: dict[str, bytes], top: str = "") -> dict[str, Any]:
    path = place.tmp / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as made:
            for one, data in files.items():
                made.writestr(f"{top}{one}", data)
    else:
        with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as tar:
            for one, data in files.items():
                member = tarfile.TarInfo(f"{top}{one}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"kind": "archive", "url": f"file://{path}", "sha256": digest}


@pytest.mark.parametrize("name", ["model.tar", "model.tar.gz", "model.zip"])
@pytest.mark.parametrize("top", ["", "tiny/"])
def test_an_archive_at_hand_is_unpacked(place: Place, name: str, top: str) -> None:
    source = archive(place, name, FILES, top)
    result = place.run(source)
    assert place.holds()
    assert result["proof"] == "archive"
    damaged = {**source, "sha256": "0" * 64}
    assert "instead of 000" in place.run(damaged, fails=True, path=f"{place.path}2")["msg"]
    plain = {**source, "sha256": None}
    assert "nothing says what" in place.run(plain, fails=True, path=f"{place.path}2")["msg"]
    given = place.run(plain, files=manifest(FILES), path=f"{place.path}2")
    assert given["proof"] == "given"


def test_an_archive_of_a_server_is_gone_on_with(place: Place) -> None:
    source = archive(place, "model.tar", FILES)
    assert place.hubs.static
    (place.tmp / "model.tar").rename(place.hubs.static / "model.tar")
    source["url"] = f"{place.hubs.url}/static/model.tar"
    begun = place.partial / "archive/model.tar"
    begun.parent.mkdir(parents=True)
    begun.write_bytes((place.hubs.static / "model.tar").read_bytes()[: 20 * MIB])
    place.run(source)
    assert place.holds()
    assert [one.start for one in place.hubs.asked] == [20 * MIB]


@pytest.mark.parametrize("name", ["model.tar", "model.zip"])
@pytest.mark.parametrize("path", ["../evil.json", "/evil.json", "a/../../evil.json"])
def test_no_path_of_an_archive_leads_outside(place: Place, name: str, path: str) -> None:
    source = archive(place, name, {**SMALL, path: b"{}"})
    assert "which is refused" in place.run(source, fails=True)["msg"]
    assert not list(place.tmp.rglob("evil.json"))


def test_a_link_in_an_archive_is_refused(place: Place) -> None:
    source = archive(place, "model.tar", SMALL)
    with tarfile.open(place.tmp / "model.tar", "a") as tar:
        member = tarfile.TarInfo("link.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    source["sha256"] = hashlib.sha256((place.tmp / "model.tar").read_bytes()).hexdigest()
    assert "only files pass" in place.run(source, fails=True)["msg"]


def test_a_damaged_archive_is_named(place: Place) -> None:
    source = archive(place, "model.tar.gz", FILES)
    whole = (place.tmp / "model.tar.gz").read_bytes()
    (place.tmp / "model.tar.gz").write_bytes(whole[: len(whole) // 2])
    source["sha256"] = hashlib.sha256(whole[: len(whole) // 2]).hexdigest()
    assert "damaged" in place.run(source, fails=True)["msg"]
    assert not place.path.exists()


def directory(place: Place, files: dict[str, bytes] = FILES) -> tuple[Path, dict[str, Any]]:
    root = place.tmp / "at-hand"
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root, {"kind": "directory", "url": f"file://{root}"}


def state(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_mode, found.st_nlink, found.st_uid, found.st_mtime_ns


def test_a_directory_at_hand_is_copied_and_left_alone(place: Place) -> None:
    root, source = directory(place)
    assert "nothing says what the files" in place.run(source, fails=True)["msg"]
    before = state(root / "config.json")
    assert place.run(source, files=manifest(FILES))["proof"] == "given"
    assert place.holds()
    assert state(root / "config.json") == before
    assert (place.path / "config.json").stat().st_nlink == 1
    (root.parent / f"{root.name}.json").write_text(json.dumps(manifest(FILES)))
    assert place.run(source, path=f"{place.path}2")["proof"] == "manifest"


def test_a_directory_with_wrong_bytes_or_links_outside_is_refused(place: Place) -> None:
    root, source = directory(place)
    (root / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"?")
    failed = place.run(source, files=manifest(FILES), fails=True)
    assert "model.safetensors: " in failed["msg"]
    (root / "model.safetensors").unlink()
    (root / "model.safetensors").symlink_to(place.module.path)
    failed = place.run(source, files=manifest(FILES), fails=True)
    assert "leads outside" in failed["msg"]
    assert not place.path.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_leaves_out_what_cannot_be_held_to_it(place: Place, kind: str) -> None:
    source = place.source(kind)
    failed = place.run(source, fails=True, limit_mib_s=1)
    assert "cannot be held to limit_mib_s" in failed["msg"]


def test_a_limit_is_held_over_all_files_together(
    place: Place, mirror: Callable[[], dict[str, Any]]
) -> None:
    source = mirror()
    begun = time.monotonic()
    place.run(source, limit_mib_s=8)
    assert time.monotonic() - begun > 2.5


def test_progress_is_told_while_it_runs_and_taken_away(
    place: Place, mirror: Callable[[], dict[str, Any]]
) -> None:
    told = place.models / f".{REVISION}.progress.json"
    params = place.params(mirror(), limit_mib_s=5, progress=str(told))
    process = begin(place, params)
    seen = []

    def ended() -> bool:
        if told.is_file():
            seen.append(json.loads(told.read_text()))
        return process.poll() is not None

    assert until(ended)
    assert process.returncode == 0
    half = [one for one in seen if one["phase"] == "fetching" and 0 < one["done"] < one["total"]]
    assert half
    assert half[-1]["total"] == sum(len(data) for data in FILES.values())
    assert half[-1]["kind"] == "files"
    assert 0 < half[-1]["rate"] < 8 * MIB
    assert half[-1]["left"] is not None
    assert not told.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_is_not_there_is_named(place: Place, kind: str) -> None:
    source = place.source(kind)
    place.clients = place.tmp / "nowhere"
    if kind == "git-lfs":
        return
    assert "nowhere/bin/" in place.run(source, fails=True)["msg"]


def test_the_snapshot_in_use_survives_every_failure(place: Place) -> None:
    source = place.source("huggingface")
    place.run(source)
    # Another revision shall take its place, and cannot be had.
    place.hubs.gone = True
    later = place.models / ("b" * 40)
    place.hubs.models["own/tiny", "b" * 40] = {**FILES, "model.safetensors": WEIGHTS[1:]}
    place.run(source, fails=True, revision="b" * 40, path=str(later))
    assert place.holds()
    assert not later.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.parametrize("kind", [*KINDS, "archive"])
@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_full_and_a_read_only_disk_are_said_so(place: Place, kind: str, how: str) -> None:
    source = archive(place, "x.tar", FILES) if kind == "archive" else place.source(kind)
    place.models.mkdir(parents=True)
    options = "size=100m" if how == "full" else "size=100m,ro"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", place.models], check=True)
    try:
        if how == "full":
            (place.models / "other").write_bytes(b"x" * (90 * MIB))
        said = place.run(source, fails=True)["msg"]
        assert ("MiB of free disk" in said) if how == "full" else ("Read-only file" in said)
        assert not place.path.exists()
    finally:
        subprocess.run(["umount", place.models], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_fills_up_half_way_ends_the_run_and_is_gone_on_with(
    place: Place, kind: str
) -> None:
    source, other = place.source(kind), {"kind": "files", "url": f"{place.hubs.url}/static/none/"}
    place.models.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150m", "small", place.models], check=True)
    try:
        place.hubs.slow = 4 * MIB
        process = begin(place, place.params(source, other))
        assert until(lambda: biggest(place.partial) >= 4 * MIB)
        with contextlib.suppress(OSError), (place.models / "filler").open("wb") as filler:
            while True:
                filler.write(b"x" * MIB)
                filler.flush()
        output, _ = process.communicate(timeout=120)
        said = json.loads(output.splitlines()[-1])
        assert "is full" in said["msg"] or "No space left" in said["msg"], said["msg"]
        # No other source was asked: none makes the disk larger.
        assert not any("/none" in one.path for one in place.hubs.asked)
        (place.models / "filler").unlink()
        place.hubs.slow = None
        assert place.run(source)["resumed_bytes"] > 0
        assert place.holds()
    finally:
        subprocess.run(["umount", "-l", place.models], check=True)
