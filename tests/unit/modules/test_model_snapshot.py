"""A model's snapshot has every byte proved; git and git-lfs are the real ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.unit.modules.conftest import ModuleRunner

WEIGHTS = os.urandom(300_000)
SMALL = os.urandom(5_000)


def git(cwd: Path, *words: str) -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": str(cwd / "../gitconfig"), "GIT_CONFIG_NOSYSTEM": "1"}
    argv = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(
        argv, cwd=cwd, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


def lfs_object(repository: Path, content: bytes) -> Path:
    oid = hashlib.sha256(content).hexdigest()
    return repository / ".git/lfs/objects" / oid[:2] / oid[2:4] / oid


class Host:
    """A source repository, the place of the snapshot, and the arguments."""

    def __init__(self, tmp_path: Path, module: ModuleRunner) -> None:
        self.module, self.tmp = module, tmp_path
        self.source = tmp_path / "source"
        self.source.mkdir()
        git(self.source, "init", "--quiet", "--initial-branch=main")
        git(self.source, "lfs", "install", "--local", "--skip-repo")
        git(self.source, "lfs", "track", "*.safetensors", "*.bin")
        (self.source / "sub").mkdir()
        (self.source / "model.safetensors").write_bytes(WEIGHTS)
        (self.source / "sub/extra.bin").write_bytes(SMALL)
        (self.source / "config.json").write_text('{"a": 1}\r\n')
        self.revision = self.commit()
        self.root = tmp_path / "models/tiny"
        self.path = self.root / self.revision
        self.partial = self.root / f".{self.revision}.partial"

    def commit(self) -> str:
        git(self.source, "add", "--all")
        git(self.source, "commit", "--quiet", "--message", "model")
        self.revision = git(self.source, "rev-parse", "HEAD")
        self.path = self.tmp / "models/tiny" / self.revision
        return self.revision

    def run(self, *urls: str, **changes: Any) -> dict[str, Any]:
        sources = [{"kind": "git-lfs", "url": url} for url in urls or (f"file://{self.source}",)]
        params = {"name": "tiny", "revision": self.revision, "path": str(self.path)}
        return self.module(**{**params, "sources": sources, **changes})


@pytest.fixture
def host(tmp_path: Path, module: ModuleRunner) -> Host:
    return Host(tmp_path, module)


def test_a_snapshot_is_fetched_once_whole_and_without_git(host: Host) -> None:
    first = host.run()
    assert first["changed"]
    assert (host.path / "model.safetensors").read_bytes() == WEIGHTS
    assert (host.path / "sub/extra.bin").read_bytes() == SMALL
    assert (host.path / "config.json").read_bytes() == b'{"a": 1}\r\n'
    assert not (host.path / ".git").exists()
    assert not host.partial.exists()
    weights = host.path / "model.safetensors"
    assert weights.stat().st_nlink == 1
    assert oct(weights.stat().st_mode & 0o7777) == "0o644"
    assert oct((host.path / "sub").stat().st_mode & 0o7777) == "0o755"
    manifest = json.loads((host.root / f"{host.revision}.json").read_text())
    assert manifest["source"] == f"file://{host.source}"
    expected = {"size": len(WEIGHTS), "sha256": hashlib.sha256(WEIGHTS).hexdigest()}
    assert manifest["files"]["model.safetensors"] == expected
    assert first["files"] == manifest["files"]
    second = host.run("file:///nowhere")
    assert not second["changed"]
    assert second["bytes"] == first["bytes"]


def test_check_mode_asks_no_source_and_makes_nothing(host: Host) -> None:
    result = host.run("file:///nowhere", check=True)
    assert result["changed"]
    assert "it is not there" in result["diff"]["before"]
    assert not host.root.exists()


def test_an_older_commit_than_the_tip_is_what_is_fetched(host: Host) -> None:
    pinned, place = host.revision, host.path
    (host.source / "config.json").write_text("{}")
    host.commit()
    host.run(revision=pinned, path=str(place))
    assert (place / "config.json").read_bytes() == b'{"a": 1}\r\n'


def test_patterns_choose_the_files_and_what_is_downloaded(host: Host) -> None:
    lfs_object(host.source, SMALL).unlink()
    result = host.run(include=["*.json", "model.*"])
    assert set(result["files"]) == {"config.json", "model.safetensors"}
    assert "made with include" in host.run(check=True)["reason"]
    assert "no file of the commit" in host.run(fails=True, include=["*.gguf"])["msg"]


def test_a_bad_source_is_left_with_a_warning_for_the_next(host: Host) -> None:
    result = host.run("file:///nowhere", f"file://{host.source}")
    assert result["source"] == f"file://{host.source}"
    assert result["attempts"][0]["url"] == "file:///nowhere"
    assert any("file:///nowhere was left" in str(text) for text in result["warnings"])


def test_a_missing_lfs_object_is_named_and_the_rest_is_kept(host: Host) -> None:
    lost = lfs_object(host.source, SMALL)
    lost.rename(host.tmp / "lost")
    result = host.run(fails=True)
    assert "sub/extra.bin: it did not come" in result["msg"]
    assert "run again to go on" in result["msg"]
    assert not host.path.exists()
    # The download goes on where it stopped: the large file's source may vanish meanwhile.
    shutil.move(host.tmp / "lost", lost)
    lfs_object(host.source, WEIGHTS).unlink()
    assert host.run()["changed"]
    assert (host.path / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damage_in_a_partial_download_is_found_and_fetched_again(host: Host, damage: str) -> None:
    hidden = lfs_object(host.source, SMALL)
    hidden.rename(host.tmp / "hidden")
    host.run(fails=True)
    hidden.parent.mkdir(parents=True, exist_ok=True)
    (host.tmp / "hidden").rename(hidden)
    oid = hashlib.sha256(WEIGHTS).hexdigest()
    [kept] = (host.partial / "store/objects").rglob(oid)
    kept.chmod(0o644)
    data = bytearray(WEIGHTS if damage == "flip" else WEIGHTS[:1000])
    data[500] ^= 1
    kept.write_bytes(data)
    assert host.run()["changed"]
    assert (host.path / "model.safetensors").read_bytes() == WEIGHTS


def test_wrong_bytes_at_the_source_are_refused(host: Host) -> None:
    bad = lfs_object(host.source, SMALL)
    bad.chmod(0o644)
    bad.write_bytes(bytes(len(SMALL)))
    assert "sub/extra.bin" in host.run(fails=True)["msg"]
    assert not host.path.exists()


def test_the_given_manifest_is_held_against_the_pointers_before_a_download(host: Host) -> None:
    lfs_object(host.source, WEIGHTS).unlink()
    files = {"model.safetensors": {"size": 1, "sha256": "0" * 64}}
    result = host.run(fails=True, files=files)
    assert "the given manifest says 1; nothing was downloaded" in result["msg"]
    files = {"other.safetensors": {"size": 1, "sha256": "0" * 64}}
    assert "other.safetensors" in host.run(fails=True, files=files)["msg"]


def test_a_revision_that_the_source_lacks_is_named(host: Host) -> None:
    wrong = "0" * 40
    result = host.run(fails=True, revision=wrong, path=str(host.root / wrong))
    assert f"the source has no commit {wrong}" in result["msg"]
    assert "pin the commit" in host.run(fails=True, revision="main")["msg"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("echo more >> config.json", "config.json: 15 bytes instead of 10"),
        ("rm sub/extra.bin", "missing or unexpected files: sub/extra.bin"),
        ("touch evil.py", "missing or unexpected files: evil.py"),
        ("printf 'version https://git-lfs.github.com/spec/v1' > model.safetensors", "LFS pointer"),
        ("ln -sf /etc/passwd config.json", "no regular file"),
        ("rm ../*.json", "manifest is missing"),
    ],
)
def test_a_flaw_in_a_snapshot_is_found_and_mended(host: Host, damage: str, said: str) -> None:
    host.run()
    subprocess.run(["sh", "-c", damage], cwd=host.path, check=True)
    result = host.run()
    assert said in result["reason"]
    assert (host.path / "model.safetensors").read_bytes() == WEIGHTS
    assert not host.run(verify="full")["changed"]


def test_a_flipped_bit_is_found_and_good_files_are_reused(host: Host) -> None:
    host.run()
    extra = host.path / "sub/extra.bin"
    extra.write_bytes(bytes([SMALL[0] ^ 1]) + SMALL[1:])
    lfs_object(host.source, WEIGHTS).unlink()
    result = host.run()
    assert "sub/extra.bin: sha256" in result["reason"]
    assert extra.read_bytes() == SMALL
    assert (host.path / "model.safetensors").read_bytes() == WEIGHTS


def test_a_flipped_bit_that_hides_is_found_by_a_full_look(host: Host) -> None:
    """The manifest is made to say that the file has always looked like this."""
    host.run()
    extra, said = host.path / "sub/extra.bin", host.root / f"{host.revision}.json"
    extra.write_bytes(bytes([SMALL[0] ^ 1]) + SMALL[1:])
    manifest, status = json.loads(said.read_text()), extra.stat()
    manifest["seen"]["sub/extra.bin"] = {
        "inode": status.st_ino, "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns
    }  # fmt: skip
    said.write_text(json.dumps(manifest))
    assert not host.run()["changed"]
    assert "sub/extra.bin: sha256" in host.run(verify="full")["reason"]
    assert extra.read_bytes() == SMALL


def test_a_file_that_was_merely_touched_is_read_once(host: Host) -> None:
    host.run()
    said = host.root / f"{host.revision}.json"
    placed = json.loads(said.read_text())["placed"]
    (host.path / "sub/extra.bin").touch()
    before = said.read_text()
    assert not host.run(check=True)["changed"]
    assert said.read_text() == before
    assert not host.run()["changed"]
    after = json.loads(said.read_text())
    assert after["seen"] != json.loads(before)["seen"]
    # Nobody has to start anew for that.
    assert after["placed"] == placed


def test_another_revision_leaves_the_previous_one_untouched(host: Host) -> None:
    host.run()
    before = {p: p.lstat().st_mtime_ns for p in host.path.rglob("*")}
    previous = host.path
    (host.source / "config.json").write_text("{}")
    host.commit()
    host.run()
    assert host.path != previous
    assert {p: p.lstat().st_mtime_ns for p in previous.rglob("*")} == before


def test_links_inside_become_files_and_links_outside_are_refused(host: Host) -> None:
    (host.source / "sub/link.json").symlink_to("../config.json")
    host.commit()
    host.run()
    assert not (host.path / "sub/link.json").is_symlink()
    assert (host.path / "sub/link.json").read_bytes() == b'{"a": 1}\r\n'
    (host.source / "sub/link.json").unlink()
    (host.source / "sub/link.json").symlink_to("../../../../etc/passwd")
    host.commit()
    assert "leads outside" in host.run(fails=True)["msg"]
    assert not host.path.exists()


def test_a_damaged_pointer_in_the_commit_is_refused(host: Host) -> None:
    (host.source / "stub.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha")
    host.commit()
    assert "stub.txt is a damaged LFS pointer" in host.run(fails=True)["msg"]


def test_a_model_that_cannot_fit_is_refused_before_its_download(host: Host) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize {1 << 60}\n"
    (host.source / "huge.txt").write_text(pointer)
    host.commit()
    result = host.run(fails=True)
    assert "MiB of free disk" in result["msg"]
    assert result["needed_bytes"] > 1 << 60


def test_a_broken_partial_repository_is_made_anew(host: Host) -> None:
    repository = host.partial / "repository.git"
    repository.mkdir(parents=True)
    (repository / "config").write_text("[broken")
    (repository / "HEAD.lock").write_text("")
    assert host.run()["changed"]


def test_two_runs_do_not_fetch_into_one_place(host: Host) -> None:
    import fcntl

    host.partial.mkdir(parents=True)
    handle = os.open(host.partial, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert "another run is fetching" in host.run(fails=True)["msg"]
    os.close(handle)


def test_a_password_in_a_source_is_refused(host: Host) -> None:
    assert "carries a user or password" in host.run("https://u:p@h/x.git", fails=True)["msg"]


class Mirror:
    """A plain server of a snapshot's files that knows ranges, and can be made to misbehave."""

    def __init__(self, tmp_path: Path, revision: str) -> None:
        self.root = tmp_path / "mirror"
        self.files = {"model.safetensors": WEIGHTS, "sub/a b.json": SMALL}
        self.asked: list[tuple[str, str | None]] = []
        self.cut_after: int | None = None
        self.served: dict[str, bytes] = dict(self.files)
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.answer(self)

            def log_message(self, *words: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.base = f"http://127.0.0.1:{self.server.server_port}/models/tiny/{revision}"

    def manifest(self) -> dict[str, Any]:
        return {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in self.files.items()
        }

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(request.path)
        if path.endswith(".json") and path.count("/") == 3:
            body, start = json.dumps(self.manifest()).encode(), 0
        else:
            name, wanted = path.split("/", 4)[4], request.headers.get("Range")
            self.asked.append((name, wanted))
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            body = self.served[name]
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        request.wfile.write(body[start : start + (self.cut_after or len(body))])

    def source(self) -> dict[str, str]:
        return {"kind": "files", "url": f"{self.base}/"}


@pytest.fixture
def mirror(tmp_path: Path, host: Host) -> Iterator[Mirror]:
    made = Mirror(tmp_path, host.revision)
    yield made
    made.server.shutdown()


def test_a_mirrors_files_become_the_same_kind_of_snapshot(host: Host, mirror: Mirror) -> None:
    result = host.run(sources=[mirror.source()])
    assert result["changed"]
    assert (host.path / "model.safetensors").read_bytes() == WEIGHTS
    assert (host.path / "sub/a b.json").read_bytes() == SMALL
    assert result["files"] == mirror.manifest()
    assert not host.partial.exists()
    assert not host.run(sources=[mirror.source()], verify="full")["changed"]


def test_a_connection_that_is_cut_goes_on_by_range(host: Host, mirror: Mirror) -> None:
    mirror.cut_after = 200_000
    host.run(sources=[mirror.source()])
    assert ("model.safetensors", "bytes=200000-") in mirror.asked
    assert (host.path / "model.safetensors").read_bytes() == WEIGHTS


def test_wrong_bytes_of_a_mirror_are_refused_and_the_next_source_serves(
    host: Host, mirror: Mirror
) -> None:
    mirror.served["model.safetensors"] = bytes(len(WEIGHTS))
    only = host.run(sources=[mirror.source()], fails=True)
    assert "model.safetensors: 300000 bytes with sha256" in only["msg"]
    assert not host.path.exists()
    git_too = {"kind": "git-lfs", "url": f"file://{host.source}"}
    result = host.run(sources=[mirror.source(), git_too])
    assert result["source"] == f"file://{host.source}"
    # The good file of the mirror stays out: the commit has no such file.
    assert "sub/a b.json" not in result["files"]


def test_patterns_and_the_given_manifest_hold_for_a_mirror_too(host: Host, mirror: Mirror) -> None:
    result = host.run(sources=[mirror.source()], include=["*.safetensors"])
    assert set(result["files"]) == {"model.safetensors"}
    files = {"model.safetensors": {"size": 1, "sha256": "0" * 64}}
    refused = host.run(sources=[mirror.source()], files=files, fails=True)
    assert "the given manifest says 1; nothing was downloaded" in refused["msg"]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a//b"])
def test_a_mirrors_manifest_cannot_lead_outside(host: Host, mirror: Mirror, name: str) -> None:
    mirror.files[name] = b"evil"
    assert "which is refused" in host.run(sources=[mirror.source()], fails=True)["msg"]


def test_what_a_mirror_lacks_is_named(host: Host, mirror: Mirror) -> None:
    source = {"kind": "files", "url": f"{mirror.base.rsplit(':', 1)[0]}:1/models/tiny/x/"}
    assert "/models/tiny/x.json: " in host.run(sources=[source], fails=True)["msg"]
