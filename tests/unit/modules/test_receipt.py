"""A receipt says what was carried out, and finds whatever is no longer so."""

from __future__ import annotations

import json
import os
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.modules.conftest import ModuleRunner, write_program

if TYPE_CHECKING:
    from collections.abc import Iterator

OLD = Path(__file__).parent / "receipts"
SYSTEMCTL = """#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/systemctl.calls"
while [ "$1" != -- ]; do shift; done
shift
for unit; do cat "$here/$unit"; echo; done
"""
UNIT = "vllm@tiny.service"


class Health(BaseHTTPRequestHandler):
    """Answers as the server says."""

    def do_GET(self) -> None:
        """Answer one question."""
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Service(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A stand-in of an engine that says whether it is well."""

    daemon_threads = True
    status = 200


class Host:
    """A host with files, a link, a release, a model, users and two units."""

    def __init__(self, tmp: Path, programs: Path, module: ModuleRunner) -> None:
        self.tmp, self.module, self.programs = tmp, module, programs
        write_program(programs / "systemctl", SYSTEMCTL)
        self.receipt = tmp / "lib/receipt.json"
        self.before = tmp / "lib/before.json"
        self.plain, self.secret = tmp / "plain.yaml", tmp / "api_key"
        self.plain.write_text("a: 1\n")
        self.secret.write_text("hunter2")
        self.secret.chmod(0o600)
        self.file = tmp / "vllm@.service"
        self.file.write_text("[Service]\n")
        self.link, self.release = tmp / "current", tmp / "release"
        self.site = self.release / "lib/python3.10/site-packages"
        for name in ("torch-2.dist-info", "torch", "vllm-1.dist-info", "vllm", "__pycache__"):
            (self.site / name).mkdir(parents=True)
        (self.site / "vllm/engine.py").write_text("right = True\n")
        stated = "sha256=5_cBMZSGPovMnVo5Es5HpGm7GLok5jjLeV_VSHnLnVI"
        (self.site / "vllm-1.dist-info/RECORD").write_text(f"vllm/engine.py,{stated},13\n")
        (self.release / "conda-meta").mkdir()
        (self.release / "conda-meta/python-3.10-0.json").write_text("{}")
        self.mark()
        self.link.symlink_to(self.release)
        self.model = tmp / "model/abc"
        self.model.mkdir(parents=True)
        self.weights = self.model / "weights"
        self.weights.write_bytes(bytes(10))
        self.know_model()
        self.unit(UNIT, FragmentPath=str(self.file))
        self.unit("nginx.service")
        self.socket = tmp / "api.sock"

    def mark(self, **changes: Any) -> None:
        marker = {
            "stage": "complete",
            "installed": ["torch", "torch-2.dist-info", "vllm", "vllm-1.dist-info"],
            "conda": ["python-3.10-0"],
            "proved": time.time(),
            "filled": time.time() - 100,
        }
        text = json.dumps({**marker, **changes})
        (self.release / ".vllm-release.json").write_text(text)

    def know_model(self) -> None:
        status = self.weights.stat()
        seen = {"inode": status.st_ino, "mtime_ns": status.st_mtime_ns}
        seen["ctime_ns"] = status.st_ctime_ns
        sha256 = "01d448afd928065458cf670b60f5a594d735af0172c8d67f22a81680132681ca"
        files = {"weights": {"size": 10, "sha256": sha256}}
        said = {"files": files, "seen": {"weights": seen}, "placed": time.time() - 100}
        self.model.with_name("abc.json").write_text(json.dumps(said))

    def unit(self, name: str, **changes: str) -> None:
        entered = (time.clock_gettime(time.CLOCK_MONOTONIC) - 50) * 1e6
        state = {
            "Id": name, "ActiveState": "active", "UnitFileState": "enabled", "DropInPaths": "",
            "FragmentPath": f"/usr/lib/systemd/system/{name}", "NeedDaemonReload": "no",
            "ActiveEnterTimestampMonotonic": str(int(entered)),
        }  # fmt: skip
        lines = [f"{key}={value}" for key, value in {**state, **changes}.items()]
        (self.programs / name).write_text("\n".join(lines) + "\n")

    def managed(self) -> dict[str, Any]:
        paths = [str(self.plain), str(self.file)]
        return {
            "files": [*({"path": p} for p in paths), {"path": str(self.secret), "secret": True}],
            "links": [{"path": str(self.link), "target": str(self.release)}],
            "units": [UNIT, "nginx.service"],
            "directories": [str(self.model.parent)],
            "users": ["daemon"],
            "groups": ["daemon"],
            "absent": [f"{self.tmp}/*.yaml"],
            "switched_off": [{"path": str(self.tmp / "default"), "target": "/elsewhere"}],
            "environments": [str(self.release)],
            "services": [],
        }

    def present(self, **changes: Any) -> dict[str, Any]:
        content = {"release": {"path": str(self.release)}, "models": [{"path": str(self.model)}]}
        params: dict[str, Any] = {"path": str(self.receipt), "plan_digest": "d1"}
        params.update(content=content, managed=self.managed(), before=str(self.before))
        return self.module(**{"state": "present", **params, **changes})

    def check(self, digest: str = "d1", **changes: Any) -> dict[str, Any]:
        return self.module(state="check", path=str(self.receipt), plan_digest=digest, **changes)

    def begin(self, **changes: Any) -> dict[str, Any]:
        words = {"path": str(self.receipt), "before": str(self.before), "managed": self.managed()}
        self.module(**{"state": "begun", **words, **changes})
        there: dict[str, Any] = json.loads(self.before.read_text())["there"]
        return there

    def serve(self, **changes: Any) -> dict[str, Any]:
        """Have a service in the receipt; return what the plan lists then."""
        service: dict[str, Any] = {
            "unit": UNIT,
            "socket": str(self.socket),
            "address": None,
            "path": "/health",
        }
        service.update(ready_timeout=30, inputs=[str(self.plain), str(self.file)])
        service.update(trees=[str(self.release), str(self.model)])
        managed = {**self.managed(), "services": [{**service, **changes}]}
        self.present(managed=managed)
        return managed


@pytest.fixture
def host(tmp_path: Path, programs: Path, module: ModuleRunner) -> Host:
    return Host(tmp_path, programs, module)


@pytest.fixture
def service(host: Host) -> Iterator[Service]:
    """A service that listens where the receipt says."""
    with Service(str(host.socket), Health) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        old = time.time() - 100
        for path in (host.plain, host.file):
            os.utime(path, (old, old))
        yield server
        server.shutdown()
        thread.join()


def test_it_is_written_once_private_and_without_secrets(host: Host) -> None:
    assert host.present(check=True)["changed"]
    assert not host.receipt.exists()
    first = host.present()
    assert first["changed"]
    assert oct(host.receipt.stat().st_mode & 0o7777) == "0o600"
    written = json.loads(host.receipt.read_text())
    assert written["format"] == 2
    plain, _, secret = written["files"]
    assert len(plain["sha256"]) == 64
    assert secret["mode"] == "0600"
    assert "sha256" not in secret
    assert "hunter2" not in host.receipt.read_text()
    assert not host.present()["changed"]
    host.receipt.chmod(0o644)
    assert host.present()["changed"]


def test_a_secret_is_sealed_with_a_key_that_stays_on_the_host(host: Host) -> None:
    host.present()
    key = host.receipt.with_suffix(".key")
    assert oct(key.stat().st_mode & 0o7777) == "0o600"
    assert key.read_bytes().hex() not in host.receipt.read_text()
    host.secret.write_text("hunter3")
    [item] = host.check()["differences"]
    assert (item["kind"], item["subject"]) == ("file seal", str(host.secret))
    assert "hunter" not in json.dumps(host.check())


def test_a_host_as_recorded_is_current_by_one_call_of_systemctl(host: Host) -> None:
    host.present()
    result = host.check()
    assert result["differences"] == []
    assert result["current"]
    assert len((host.programs / "systemctl.calls").read_text().splitlines()) == 1


def test_a_host_without_a_receipt_is_not_current(host: Host) -> None:
    result = host.check()
    assert not result["current"]
    assert result["differences"][0]["found"] == "none"
    assert result["receipt"] is None


@pytest.mark.parametrize(
    ("damage", "kind", "found"),
    [
        ("echo b >> plain.yaml", "file sha256", ""),
        ("chmod 0666 plain.yaml", "file mode", "0666"),
        ("chmod 0644 api_key", "file mode", "0644"),
        ("rm api_key", "file", "none"),
        ("rm plain.yaml; ln -s /etc/hosts plain.yaml", "file", "none"),
        ("ln -sfn /elsewhere current", "link", "/elsewhere"),
        ("rm current", "link", "no link"),
        ("chmod 0700 model", "directory mode", "0700"),
        ("echo > other.yaml", "file not planned", "a file"),
        ("ln -s /elsewhere default", "switched off", "there again"),
        ("truncate -s 5 model/abc/weights", "model", "5 bytes"),
        ("rm model/abc/weights", "model", "no file"),
        ("printf 0123456789 > model/abc/weights", "model", "sha256 84d89877"),
        ("echo > model/abc/more", "model", "a file"),
        ("touch model/abc/weights", "model touched", "unaltered"),
        ("rm model/abc.json", "model", "none"),
        ("rm release/.vllm-release.json", "release", "no marker"),
        ("mkdir release/lib/python3.10/site-packages/rich-1.dist-info", "package", "added"),
        ("rmdir release/lib/python3.10/site-packages/torch", "package", "missing"),
        ("echo > release/lib/python3.10/site-packages/more.pth", "package", "added"),
        ("echo {} > release/conda-meta/zlib-1-0.json", "conda package", "added"),
        ("rm release/conda-meta/*.json", "conda package", "missing"),
        ("echo > release/lib/python3.10/site-packages/vllm/mine.py", "package file", "added"),
        ("rm release/lib/python3.10/site-packages/vllm/engine.py", "package file", "missing"),
    ],
)
def test_drift_is_found_and_named(host: Host, damage: str, kind: str, found: str) -> None:
    host.present()
    subprocess.run(["sh", "-c", damage], cwd=host.tmp, check=True)
    [item] = host.check()["differences"]
    assert item["kind"] == kind
    assert found in item["found"]


def test_source_edited_by_hand_is_found_by_its_time_and_bytes(host: Host) -> None:
    """People are told to edit vLLM's source."""
    host.mark(proved=time.time() - 60)
    source = host.site / "vllm/engine.py"
    host.present()
    assert host.check()["current"]
    source.write_text("wrong = True\n")
    [item] = host.check()["differences"]
    assert (item["kind"], item["subject"], item["found"]) == (
        "package file",
        str(source),
        "altered",
    )


def test_source_edited_with_an_old_time_is_found_by_a_deep_look(host: Host) -> None:
    host.mark(proved=time.time() + 60)
    host.present()
    (host.site / "vllm/engine.py").write_text("wrong = True\n")
    assert host.check()["current"]
    [item] = host.check(deep=True)["differences"]
    assert item["found"] == "altered"


def test_a_deep_look_reads_models_that_look_unchanged(host: Host) -> None:
    host.present()
    host.weights.write_bytes(b"0123456789")
    said = host.model.with_name("abc.json")
    host.know_model()
    assert host.check()["current"], said.read_text()
    [item] = host.check(deep=True)["differences"]
    assert item["kind"] == "model"


def test_units_that_are_down_or_disabled_are_named(host: Host) -> None:
    host.present()
    host.unit(UNIT, ActiveState="failed", FragmentPath=str(host.file))
    host.unit("nginx.service", UnitFileState="")
    first, second = host.check()["differences"]
    assert (first["subject"], first["found"]) == (UNIT, "failed")
    assert (second["subject"], second["found"]) == ("nginx.service", "not there")


@pytest.mark.parametrize(
    ("changes", "kind", "found"),
    [
        ({"NeedDaemonReload": "yes"}, "unit reload", "changed since"),
        ({"DropInPaths": f"/etc/systemd/system/{UNIT}.d/override.conf"}, "unit drop-in", UNIT),
        ({"DropInPaths": "/run/systemd/system/vllm@.service.d/x.conf"}, "unit drop-in", UNIT),
        (
            {"FragmentPath": f"/etc/systemd/system/{UNIT}"},
            "unit file",
            f"/etc/systemd/system/{UNIT}",
        ),
        ({"UnitFileState": "masked"}, "unit", "masked"),
    ],
)
def test_what_somebody_else_configures_of_our_unit_is_named(
    host: Host, changes: dict[str, str], kind: str, found: str
) -> None:
    host.present()
    host.unit(UNIT, **{"FragmentPath": str(host.file), **changes})
    [item] = host.check()["differences"]
    assert item["kind"] == kind
    assert found in item["found"]


def test_drop_ins_of_the_distribution_and_of_others_units_are_theirs(host: Host) -> None:
    host.present()
    theirs = "/usr/lib/systemd/system/vllm@.service.d/a.conf /etc/systemd/system/service.d/b.conf"
    host.unit(UNIT, FragmentPath=str(host.file), DropInPaths=theirs)
    host.unit("nginx.service", DropInPaths="/etc/systemd/system/nginx.service.d/limits.conf")
    assert host.check()["current"]


def test_a_well_service_is_no_difference(host: Host, service: Service) -> None:
    host.serve()
    assert host.check()["differences"] == []


def test_an_ill_service_is_named_and_is_to_be_restarted(host: Host, service: Service) -> None:
    host.serve()
    service.status = 500
    result = host.check()
    [item] = result["differences"]
    assert (item["kind"], item["found"]) == ("service ill", "500")
    assert result["restart"] == [UNIT]


def test_a_service_that_is_starting_is_not_ill_until_it_takes_too_long(host: Host) -> None:
    host.serve(ready_timeout=100, inputs=[])
    result = host.check()
    assert [item["kind"] for item in result["differences"]] == ["service starting"]
    assert result["restart"] == []
    host.serve(ready_timeout=30, inputs=[])
    result = host.check()
    assert [item["kind"] for item in result["differences"]] == ["service ill"]
    assert result["restart"] == [UNIT]


def test_a_dead_engine_is_ill_at_once(host: Host, service: Service) -> None:
    """It answers with 503 only when it has died, and never while it starts."""
    host.serve(ready_timeout=100)
    service.status = 503
    assert host.check()["restart"] == [UNIT]


@pytest.mark.parametrize(
    "change",
    [
        lambda host: host.plain.touch(),
        lambda host: host.mark(filled=time.time()),
        lambda host: host.model.with_name("abc.json").write_text(
            json.dumps(
                {**json.loads(host.model.with_name("abc.json").read_text()), "placed": time.time()}
            )
        ),
    ],
    ids=["file", "release", "model"],
)
def test_a_service_older_than_what_it_read_is_to_be_restarted(
    host: Host, service: Service, change: Any
) -> None:
    """So ends a run that was cut off between putting something right and the restart."""
    host.serve()
    change(host)
    result = host.check()
    assert [item["kind"] for item in result["differences"]] == ["service stale"]
    assert result["restart"] == [UNIT]


@pytest.mark.parametrize(
    ("damage", "restart"),
    [
        ("echo b >> plain.yaml; touch -d '-100 seconds' plain.yaml", True),
        ("printf 0123456789 > model/abc/weights", True),
        ("mkdir release/lib/python3.10/site-packages/rich-1.dist-info", True),
        ("chmod 0600 plain.yaml", False),
        ("touch model/abc/weights", False),
        ("rm current", False),
    ],
)
def test_a_service_is_restarted_only_for_what_it_runs_with(
    host: Host, service: Service, damage: str, restart: bool
) -> None:
    host.serve()
    subprocess.run(["sh", "-c", damage], cwd=host.tmp, check=True)
    result = host.check()
    assert not result["current"]
    assert result["restart"] == ([UNIT] if restart else [])


def test_users_and_groups_that_are_gone_or_changed_are_named(host: Host) -> None:
    host.present()
    said = json.loads(host.receipt.read_text())
    said["users"] = [{"name": "no-such-user"}, {**said["users"][0], "shell": "/bin/other"}]
    said["groups"] = [{"name": "no-such-group"}]
    said["memberships"] = [{"user": "daemon", "group": "root"}]
    host.receipt.write_text(json.dumps(said))
    found = {(item["kind"], item["subject"]) for item in host.check()["differences"]}
    assert found == {
        ("user", "no-such-user"), ("user shell", "daemon"), ("group", "no-such-group"),
        ("membership", "daemon"),
    }  # fmt: skip


@pytest.mark.skipif(not shutil.which("dpkg"), reason="the host's packages are Debian's")
def test_a_missing_package_of_the_system_is_named(host: Host) -> None:
    host.present(managed={**host.managed(), "os_packages": ["dpkg", "no-such-package"]})
    [item] = host.check()["differences"]
    assert (item["kind"], item["subject"]) == ("os package", "no-such-package")


def test_another_plan_is_a_difference(host: Host) -> None:
    host.present()
    [item] = host.check("d2")["differences"]
    assert (item["kind"], item["expected"], item["found"]) == ("plan", "d2", "d1")


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", '{"format": "x"}'])
def test_a_damaged_receipt_is_as_none_and_is_written_anew(host: Host, text: str) -> None:
    host.present()
    host.receipt.write_text(text, encoding="latin-1")
    result = host.check()
    assert not result["current"]
    assert "corrupt" in result["differences"][0]["found"]
    assert host.present()["changed"]
    assert host.check()["current"]


def test_a_receipt_of_a_newer_version_is_not_touched(host: Host) -> None:
    host.present()
    newer = json.dumps({"format": 3, "project_version": "9.9"})
    host.receipt.write_text(newer)
    for result in (host.check(fails=True), host.present(fails=True)):
        assert "format 3" in result["msg"]
        assert "9.9" in result["msg"]
    assert host.receipt.read_text() == newer


def test_a_receipt_that_would_not_be_true_is_refused(host: Host) -> None:
    host.plain.unlink()
    host.link.unlink()
    result = host.present(fails=True)
    assert str(host.plain) in result["msg"]
    assert str(host.link) in result["msg"]
    assert not host.receipt.exists()
    assert host.present(check=True)["changed"]


def test_what_was_here_before_us_is_noted_once_and_stands_in_the_receipt(host: Host) -> None:
    managed, there = host.managed(), host.begin()
    assert there[str(host.plain)] is True
    assert there[str(host.link)] == str(host.release)
    assert there[str(host.tmp / "default")] is False
    assert there["user daemon"] is True
    assert there["unit nginx.service"] == {"enabled": True, "active": True}
    host.plain.unlink()
    assert host.begin() == there
    more = {**managed, "directories": [str(host.tmp / "nothing")]}
    assert host.begin(managed=more)[str(host.tmp / "nothing")] is False
    host.plain.write_text("a: 1\n")
    host.present()
    before = json.loads(host.receipt.read_text())["before"]
    assert before[str(host.plain)] is True
    assert str(host.tmp / "default") not in before


def test_what_stands_in_an_older_receipt_came_from_us(host: Host) -> None:
    host.present()
    host.before.unlink(missing_ok=True)
    there = host.begin()
    assert there[str(host.plain)] is False
    assert there["user daemon"] is False


@pytest.mark.parametrize("name", ["receipt", "webui", "mirror"])
def test_a_receipt_of_the_first_format_is_understood(host: Host, name: str) -> None:
    """As the project wrote them before there was another: they were taken from hosts."""
    old = json.loads((OLD / f"{name}-format-1.json").read_text())
    host.receipt.parent.mkdir()
    host.receipt.write_text(json.dumps(old))
    for unit in old["units"]:
        host.unit(unit)
    result = host.check(old["plan_digest"])
    kinds = [(item["kind"], item["expected"]) for item in result["differences"]]
    assert kinds[0] == ("receipt", "format 2")
    new = result["receipt"]
    listed = [one["path"] for one in new["files"]]
    assert listed[: len(old["files"])] == [one["path"] for one in old["files"]]
    # A page's host has a drop-in of ours that its old receipt did not name.
    more = ["/etc/systemd/system/nginx.service.d/vllm.conf"] if name == "webui" else []
    assert listed[len(old["files"]) :] == more
    user = {"receipt": "vllm", "webui": "vllm-webui", "mirror": "vllm-mirror"}[name]
    assert [one["name"] for one in new["users"]] == [user]
    assert {"receipt": "releases", "webui": "conda", "mirror": "store"}[name] in {
        tree["kind"] for tree in new["trees"]
    }
    assert {tree["kind"] for tree in new["trees"]} >= {"own"}


def test_what_a_host_of_the_first_format_has_came_from_us(host: Host) -> None:
    host.receipt.parent.mkdir()
    shutil.copy(OLD / "receipt-format-1.json", host.receipt)
    assert set(host.begin().values()) == {False}


def test_a_socket_that_nobody_listens_on_is_told(host: Host) -> None:
    host.serve(inputs=[])
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(host.socket))
    [item] = host.check()["differences"]
    assert item["kind"] == "service ill"
    assert "refused" in item["found"]
