"""What a receipt lists goes, what others have stays, and a second run finds nothing to do."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.modules.conftest import ROOT, ModuleRunner, load, write_program

if TYPE_CHECKING:
    from pathlib import Path

SYSTEMCTL = """#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/systemctl.calls"
case "$1" in
show)
    while [ "$1" != -- ]; do shift; done
    shift
    for unit; do
        state=$([ -e "$here/stopped-$unit" ] && echo inactive || echo active)
        printf 'Id=%s\\nActiveState=%s\\nUnitFileState=disabled\\n\\n' "$unit" "$state"
    done ;;
disable) for unit; do :; done; [ -e "$here/stuck" ] && exit 1; touch "$here/stopped-$unit" ;;
list-units) echo "vllm@more.service loaded active running" ;;
esac
"""


class Host:
    """A host with a server's receipt, and perhaps a second one."""

    def __init__(self, tmp: Path, programs: Path, module: ModuleRunner) -> None:
        self.tmp, self.module, self.programs = tmp, module, programs
        write_program(programs / "systemctl", SYSTEMCTL)
        self.state = tmp / "lib"
        self.receipt, self.other = self.state / "receipt.json", self.state / "webui.json"
        self.before = self.state / "before.json"
        for name in ("etc/api_key", "units/vllm@.service", "releases/one/bin/python", "cache/a/b"):
            self.write(name)
        self.write("releases/one/.vllm-release.json", '{"stage": "complete"}')
        (tmp / "current").symlink_to(tmp / "releases/one")
        self.write("models/tiny/abc/weights")
        self.write("models/tiny/abc.json", '{"files": {"weights": {}}}')
        self.write("log/access.json")
        self.write("log/access.json.1")
        self.write("conda/bin/conda")
        self.write("available", "welcome")
        self.write("lib/receipt.key")
        self.record(self.receipt)
        self.before.write_text('{"format": 1, "there": {}}')

    def write(self, name: str, text: str = "") -> Path:
        path = self.tmp / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def listed(self) -> dict[str, Any]:
        def at(*names: str) -> list[dict[str, Any]]:
            return [{"path": str(self.tmp / name)} for name in names]

        kinds = {
            "cache": "own", "releases": "releases", "models": "models", "conda": "conda",
            "log/access.json": "log",
        }  # fmt: skip
        return {
            "format": 2,
            "files": at("etc/api_key", "units/vllm@.service", "etc/gone"),
            "links": [{"path": str(self.tmp / "current"), "target": "/x"}],
            "units": ["vllm@tiny.service", "nginx.service"],
            "directories": at("etc", "units", "releases", "models", "lib"),
            "trees": [{"path": str(self.tmp / n), "kind": kind} for n, kind in kinds.items()],
            "switched_off": [
                {"path": str(self.tmp / "enabled"), "target": str(self.tmp / "available")}
            ],
            "users": [{"name": "no-such-user"}],
        }

    def record(self, path: Path, **changes: Any) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**self.listed(), **changes}))

    def run(self, **changes: Any) -> dict[str, Any]:
        words = {"receipt": str(self.receipt), "others": [str(self.other)]}
        return self.module(**{**words, "before": str(self.before), **changes})

    def there(self) -> set[str]:
        return {
            str(path.relative_to(self.tmp))
            for path in self.tmp.rglob("*")
            if not str(path).startswith(str(self.programs))
        }


@pytest.fixture
def host(tmp_path: Path, programs: Path, module: ModuleRunner) -> Host:
    return Host(tmp_path, programs, module)


def whys(result: dict[str, Any]) -> dict[str, str]:
    return {one["what"].rpartition("/")[2]: one["why"] for one in result["kept"]}


def test_everything_goes_but_the_models(host: Host) -> None:
    result = host.run()
    left = {"models", "models/tiny", "models/tiny/abc", "models/tiny/abc/weights"}
    left |= {"models/tiny/abc.json", "log", "available", "enabled"}
    assert host.there() == left
    assert (host.tmp / "enabled").readlink() == host.tmp / "available"
    assert whys(result)["models"].startswith("models and what was carried here stay")
    calls = (host.programs / "systemctl.calls").read_text()
    for unit in ("vllm@tiny.service", "vllm@more.service"):
        assert f"disable --now -- {unit}" in calls
    assert "disable --now -- nginx.service" not in calls


def test_models_go_when_asked_for_and_others_files_stay_beside_them(host: Host) -> None:
    host.write("models/notes.txt", "mine")
    host.write("models/mine/weights", "mine")
    host.write("models/tiny/.def.partial/store/x")
    result = host.run(models=True)
    assert {one for one in host.there() if one.startswith("models")} == {
        "models", "models/notes.txt", "models/mine", "models/mine/weights",
    }  # fmt: skip
    assert "mine, notes.txt" in whys(result)["models"]


def test_check_mode_tells_the_same_and_touches_nothing(host: Host) -> None:
    before = host.there()
    foreseen = host.run(check=True, models=True)
    assert host.there() == before
    assert "disable" not in (host.programs / "systemctl.calls").read_text()
    done = host.run(models=True)
    assert foreseen["changed"]
    assert set(foreseen["removed"]) == set(done["removed"])
    assert foreseen["kept"] == done["kept"]


def test_a_second_run_has_nothing_to_do(host: Host) -> None:
    host.run(models=True)
    result = host.run(models=True)
    assert not result["changed"]
    assert result["removed"] == []


def test_an_interrupted_removal_is_completed(host: Host) -> None:
    """Its service does not stop, so that it ends early; the receipt is still there."""
    host.write("programs/stuck")
    host.run(models=True, fails=True)
    assert host.receipt.exists()
    (host.programs / "stuck").unlink()
    (host.tmp / "etc/api_key").unlink()
    host.run(models=True)
    assert host.there() == {"available", "enabled", "log"}


def test_what_was_here_before_us_stays(host: Host) -> None:
    names = ["etc/api_key", "conda", "cache", "etc"]
    host.record(host.receipt, before={str(host.tmp / name): True for name in names})
    result = host.run(models=True)
    assert {"etc", "etc/api_key", "conda", "conda/bin/conda", "cache/a/b"} <= host.there()
    assert whys(result)["api_key"] == "it was here before us"


def test_a_welcome_page_that_was_off_before_nginx_was_ours_stays_off(host: Host) -> None:
    host.record(host.receipt, before={"unit nginx.service": {"enabled": True, "active": True}})
    host.run()
    assert "enabled" not in host.there()


@pytest.mark.parametrize(
    ("name", "what", "word"),
    [
        ("etc/mine.txt", "etc", "mine.txt"),
        ("releases/mine/bin/python", "mine", "no release of ours"),
        ("conda/envs/mine/bin/python", "conda", "mine"),
        ("lib/set-aside/x/override.conf", "set-aside", "by hand"),
    ],
)
def test_what_others_have_put_into_our_directories_stays_and_is_told(
    host: Host, name: str, what: str, word: str
) -> None:
    host.write(name, "mine")
    result = host.run(models=True)
    assert (host.tmp / name).read_text() == "mine"
    assert word in whys(result)[what]
    assert not host.run(models=True)["changed"]


def test_what_another_part_needs_stays_until_that_goes_too(host: Host) -> None:
    trees = [{"path": str(host.tmp / "conda"), "kind": "conda"}]
    directories = [{"path": str(host.tmp / name)} for name in ("lib", "etc")]
    files = [{"path": str(host.tmp / "etc/api_key")}]
    host.record(
        host.other, trees=trees, directories=directories, files=files, links=[],
        units=["nginx.service"], users=[], switched_off=[],
    )  # fmt: skip
    host.run(models=True)
    assert {"conda/bin/conda", "etc/api_key", "lib/webui.json", "lib/before.json"} <= host.there()
    assert "releases" not in host.there()
    host.run(receipt=str(host.other), others=[str(host.receipt)])
    assert not {"conda", "etc", "lib"} & host.there()


def test_a_receipt_that_cannot_be_read_removes_nothing(host: Host) -> None:
    host.receipt.write_text("{")
    before = host.there()
    assert "nothing was removed" in host.run(fails=True)["msg"]
    host.receipt.write_text('{"format": 9}')
    assert "format 9" in host.run(fails=True)["msg"]
    assert host.there() == before


def test_a_host_without_a_receipt_is_left(host: Host) -> None:
    host.receipt.unlink()
    before = host.there()
    assert not host.run()["changed"]
    assert host.there() == before


@pytest.mark.parametrize("old", ["", "alias a=b\n", "alias a=b\n\n", "\n\nx=1", "a\n\n\nb\n"])
def test_conda_s_lines_go_as_they_came(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    removal = load(ROOT / "module_utils/vllm_removal.py", monkeypatch)
    begin, end = "# >>> conda initialize >>>", "# <<< conda initialize <<<"
    block = f"{begin}\n'/opt/miniconda3/bin/conda' x\n{end}\n"
    program = PurePosixPath("/opt/miniconda3/bin/conda")
    left = removal.without_block(f"{old}\n{block}\n", program)
    assert left.rstrip("\n") == old.rstrip("\n")
    assert old.endswith("\n") is False or left == old
    foreign = f"{old}\n{block}\n".replace("/opt/miniconda3", "/home/a/conda")
    assert removal.without_block(foreign, program) == foreign


def test_pip_s_file_is_as_before(host: Host) -> None:
    conf, backup = host.tmp / "pip.conf", host.tmp / "pip.conf.before-vllm-ansible"
    mark = "# vllm-ansible sets the next option; changes to it are overwritten."
    ours = f"[global]\n{mark}\nindex-url = http://ours/\ntimeout = 5\n"
    lines = [{"kind": "pip", "subject": str(conf)}]
    files = [{"path": str(conf)}]
    theirs = "[global]\nindex-url = http://theirs/\ntimeout = 5\n"
    for text, kept, expected in (
        (ours, theirs, theirs),
        (ours.replace("5", "9"), theirs, "[global]\ntimeout = 9\n"),
        (f"[global]\n{mark}\nindex-url = http://ours/\n", None, None),
    ):
        conf.write_text(text)
        if kept:
            backup.write_text(kept)
        host.record(host.receipt, lines=lines, files=files)
        host.run(models=True)
        assert (conf.read_text() if conf.exists() else None) == expected
        backup.unlink(missing_ok=True)
