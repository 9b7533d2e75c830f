"""What the door notes of a request, in a real nginx on loopback before an engine that is none."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.unit.test_templates import render

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine")
KEY = "sk-a-key-of-the-test"
QUESTION = "what nobody shall read"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started(folder: Path, form: str) -> tuple[subprocess.Popen[bytes], int]:
    """An nginx with the role's site; what stands for the engine answers `ok`."""
    door, engine = free_port(), free_port()
    site = render(
        "gateway", "vllm.conf.j2",
        gateway_instances=[{"name": "chat", "port": door, "address": f"127.0.0.1:{engine}"}],
        gateway_access_log=form, gateway_access_log_path=str(folder / "access.json"),
    )  # fmt: skip
    (folder / "keys.map").write_text(f'"~^Bearer {KEY}$" 1;\n', "utf-8")
    temporary = "\n".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; events {{}}\n"
        f"http {{ access_log {folder}/plain.log; {temporary}\n"
        f"{site.replace('/etc/nginx/vllm', str(folder))}\n"
        f"server {{ listen 127.0.0.1:{engine}; access_log off; return 200 ok; }} }}\n",
        "utf-8",
    )
    command = [str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", door)) == 0:
                return process, door
        time.sleep(0.05)
    process.kill()
    raise AssertionError("nginx did not start")


@pytest.fixture
def asked(tmp_path, request):
    """What stands in the logs after two requests, by file."""
    process, port = started(tmp_path, request.param)
    try:
        for headers in ({"Authorization": f"Bearer {KEY}"}, {}):
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            link.request("POST", f"/v1/chat/completions?key={KEY}", QUESTION, headers)
            link.getresponse().read()
            link.close()
        # A line is written when its request is over, which may be after its last byte was read.
        time.sleep(0.2)
    finally:
        process.terminate()
        process.wait(timeout=60)
    names = [name for name in ("access.json", "plain.log") if (tmp_path / name).exists()]
    return {name: (tmp_path / name).read_text("utf-8") for name in names}


@pytest.mark.parametrize("asked", ["json"], indirect=True)
def test_the_json_log_says_who_asked_what_and_how_long_and_no_more(asked):
    lines = [json.loads(line) for line in asked["access.json"].splitlines()]
    assert [(one["route"], one["status"]) for one in lines] == [
        ("/v1/chat/completions", 200),
        ("/v1/chat/completions", 401),
    ]
    assert {one["instance"] for one in lines} == {"chat"}
    assert all(one["bytes"] > 0 and one["seconds"] >= 0 for one in lines)
    assert isinstance(lines[0]["upstream_seconds"], float)
    assert lines[1]["upstream_seconds"] is None
    assert asked["plain.log"] == ""
    for secret in (KEY, QUESTION):
        assert secret not in asked["access.json"]


@pytest.mark.parametrize("asked", ["off"], indirect=True)
def test_no_log_is_kept_where_none_is_wanted(asked):
    assert asked == {"plain.log": ""}


@pytest.mark.parametrize("asked", ["plain"], indirect=True)
def test_else_nginx_keeps_its_own(asked):
    assert asked["plain.log"].count("/v1/chat/completions") == 2
    assert "access.json" not in asked


def test_a_rotated_log_is_opened_anew_and_kept_for_its_days():
    text = render("gateway", "logrotate.j2", _gateway_log_group="adm", gateway_access_log_days=3)
    assert text.splitlines()[1] == "/var/log/nginx/vllm-access.json {"
    assert {"daily", "rotate 3", "create 0640 www-data adm", "/usr/sbin/nginx -s reopen"} <= {
        line.strip() for line in text.splitlines()
    }
