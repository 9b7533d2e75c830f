"""A file comes from the first source that has the right bytes, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.modules.conftest import ModuleRunner

CONTENT = b"#!/bin/sh\n" + bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Source(BaseHTTPRequestHandler):
    """Serves CONTENT in the way that the path names."""

    asked: list[str]

    def log_message(self, format: str, *words: Any) -> None:  # noqa: A002, ARG002 - the base class's
        self.asked.append(self.path)

    def do_GET(self) -> None:
        fault = self.path.strip("/")
        if fault.isdigit():
            self.send_error(int(fault))
            return
        if fault == "mute":
            time.sleep(3)
            return
        self.send_response(200)
        if fault != "unannounced":
            size = len(CONTENT) // 2 if fault == "short" else len(CONTENT)
            self.send_header("Content-Length", str(size))
        self.end_headers()
        if fault == "silent":
            time.sleep(3)
        elif fault == "slow":
            for _ in range(40):
                self.wfile.write(b"x" * 100)
                time.sleep(0.1)
        elif fault == "wrong":
            self.wfile.write(bytes(len(CONTENT)))
        elif fault in ("cut", "unannounced", "short"):
            self.wfile.write(CONTENT[: len(CONTENT) // 2])
        else:
            self.wfile.write(CONTENT)


@pytest.fixture
def source() -> Iterator[str]:
    Source.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Source)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_once(module: ModuleRunner, source: str, tmp_path: Path) -> None:
    dest = tmp_path / "new/installer.sh"
    params: dict[str, Any] = {
        "urls": [f"{source}/good"],
        "sha256": SHA256.upper(),
        "dest": str(dest),
    }
    first = module(**params, mode="0640")
    assert first["changed"]
    assert first["url"] == f"{source}/good"
    assert dest.read_bytes() == CONTENT
    assert oct(dest.stat().st_mode & 0o7777) == "0o640"
    assert list(dest.parent.iterdir()) == [dest]
    again = module(**params, mode="0640")
    assert not again["changed"]
    assert again["size"] == len(CONTENT)
    assert Source.asked == ["/good"]
    assert module(**params, mode="0600", check=True)["changed"]
    assert module(**params, mode="0600")["changed"]
    assert Source.asked == ["/good"]


def test_check_mode_fetches_nothing(module: ModuleRunner, source: str, tmp_path: Path) -> None:
    dest = tmp_path / "sub/file"
    result = module(urls=[f"{source}/good"], sha256=SHA256, dest=str(dest), check=True)
    assert result["changed"]
    assert "no such file" in result["diff"]["before"]
    assert Source.asked == []
    assert not dest.parent.exists()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("403", "status 403"),
        ("404", "status 404"),
        ("cut", f"broke off after {len(CONTENT) // 2} of {len(CONTENT)} bytes"),
        ("unannounced", "wrong bytes"),
        ("short", f"wrong bytes: sha256 of its {len(CONTENT) // 2} is"),
        ("wrong", f"wrong bytes: sha256 of its {len(CONTENT)} is"),
        ("429", "status 429"),
        ("mute", "no byte within the timeout"),
        ("silent", "no byte within the timeout"),
        ("slow", "too slow"),
    ],
)
def test_a_source_with_a_fault_is_left_for_the_next(
    module: ModuleRunner, source: str, tmp_path: Path, fault: str, said: str
) -> None:
    dest = tmp_path / "file"
    dest.write_text("what was there before")
    urls = [f"{source}/{fault}", f"{source}/good"]
    limits: dict[str, Any] = {"timeout": 1, "total_timeout": 2}
    result = module(urls=urls, sha256=SHA256, dest=str(dest), **limits)
    assert result["url"] == urls[1]
    [attempt] = result["attempts"]
    assert attempt["url"] == urls[0]
    assert said in attempt["error"]
    assert any(said in str(text) and urls[0] in str(text) for text in result["warnings"])
    assert dest.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [dest]


def test_when_none_serves_each_is_listed_and_the_old_file_stays(
    module: ModuleRunner, source: str, tmp_path: Path
) -> None:
    dest = tmp_path / "file"
    dest.write_text("what was there before")
    urls = [f"{source}/403", f"{source}/wrong", "http://127.0.0.1:1/refused", "bad"]
    result = module(urls=urls, sha256=SHA256, dest=str(dest), fails=True)
    assert [attempt["url"] for attempt in result["attempts"]] == urls
    assert all(url in result["msg"] for url in urls)
    assert "could not be had from any of 4 sources" in result["msg"]
    assert dest.read_text() == "what was there before"
    assert list(tmp_path.iterdir()) == [dest]


def test_what_cannot_be_meant_is_refused(module: ModuleRunner, tmp_path: Path) -> None:
    dest = str(tmp_path / "file")
    good: dict[str, Any] = {"urls": ["http://127.0.0.1:1/"], "sha256": SHA256, "dest": dest}
    assert "64 hexadecimal" in module(**{**good, "sha256": "abc"}, fails=True)["msg"]
    assert "is a directory" in module(**{**good, "dest": str(tmp_path)}, fails=True)["msg"]
    assert "the list is empty" in module(**{**good, "urls": []}, fails=True)["msg"]
    secret = module(**{**good, "urls": ["https://me:hunter2@mirror/file"]}, fails=True)
    secret.pop("invocation")
    assert "mirror carries a user or password" in secret["msg"]
    assert "hunter2" not in json.dumps(secret)


def test_a_full_disk_is_not_a_sources_fault(
    module: ModuleRunner, source: str, tmp_path: Path
) -> None:
    dest = tmp_path / "file"
    program = ["bash", "-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "-", sys.executable]
    urls = [f"{source}/good", f"{source}/good?again"]
    result = module(urls=urls, sha256=SHA256, dest=str(dest), fails=True, program=program)
    assert f"{dest} cannot be written" in result["msg"]
    assert Source.asked == ["/good"], "the next mirror is not troubled"
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_cleared_away(
    module: ModuleRunner, source: str, tmp_path: Path
) -> None:
    dest, old, young = (tmp_path / name for name in ("file", ".file.abc", ".file.def"))
    for path in (old, young):
        path.write_bytes(CONTENT[:100])
    os.utime(old, (time.time() - 100, time.time() - 100))
    module(urls=[f"{source}/good"], sha256=SHA256, dest=str(dest), timeout=30)
    assert sorted(tmp_path.iterdir()) == [young, dest], "another run may still write the young one"
