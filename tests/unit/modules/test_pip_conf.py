"""pip's configuration gets our options and keeps everybody else's; pip itself reads the result."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.modules.conftest import ModuleRunner

MIRROR = "https://mirrors.tuna.tsinghua.edu.cn/pypi/web/simple"
OURS = {"global": {"index-url": MIRROR, "timeout": "60"}}
THEIRS = """\
# The firewall opens every connection.
[global]
cert = /etc/ssl/firewall.pem
index_url = https://me:hunter2@old.example.com/simple
trusted-host =
    old.example.com
    other.example.com

[install]
no-compile = true
"""


class Conf:
    """A file pip.conf and the module that edits it."""

    def __init__(self, path: Path, module: ModuleRunner) -> None:
        self.path, self.module = path, module

    def set(self, options: dict[str, Any], **more: Any) -> dict[str, Any]:
        return self.module(path=str(self.path), options=options, **more)

    def seen_by_pip(self) -> dict[str, str]:
        """What `pip config list` reads in the file."""
        environment = {**os.environ, "PIP_CONFIG_FILE": str(self.path)}
        for name in ("PIP_INDEX_URL", "PIP_CERT"):
            environment.pop(name, None)
        done = subprocess.run(
            [sys.executable, "-m", "pip", "config", "debug"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        lines = done.stdout.split(f"{self.path}, exists: True\n", 1)[1].splitlines()
        own = itertools.takewhile(lambda line: line.startswith("    "), lines)
        # A value's further lines have no name before a colon.
        parts = (line.strip().partition(":") for line in own if ":" in line)
        return {name: value.strip() for name, _, value in parts}


@pytest.fixture
def conf(tmp_path: Path, module: ModuleRunner) -> Conf:
    return Conf(tmp_path / "pip.conf", module)


def test_a_new_file_is_written_once_and_taken_back(conf: Conf) -> None:
    assert conf.set(OURS, check=True)["changed"]
    assert not conf.path.exists()
    first = conf.set(OURS)
    assert first["changed"]
    assert first["backup"] is None
    assert f"global.index-url = {MIRROR}" in first["diff"]["after"]
    assert oct(conf.path.stat().st_mode & 0o777) == "0o644"
    assert conf.seen_by_pip() == {"global.index-url": MIRROR, "global.timeout": "60"}
    assert not conf.set(OURS)["changed"]
    assert conf.set({})["changed"]
    assert not conf.path.exists()
    assert not conf.set({})["changed"]


def test_the_options_of_others_stay_and_their_file_is_kept_once(conf: Conf) -> None:
    conf.path.write_text(THEIRS)
    conf.path.chmod(0o600)
    first = conf.set(OURS)
    backup = conf.path.with_name("pip.conf.before-vllm-ansible")
    assert first["backup"] == str(backup)
    assert backup.read_text() == THEIRS
    assert oct(backup.stat().st_mode & 0o777) == oct(conf.path.stat().st_mode & 0o777) == "0o600"
    text = conf.path.read_text()
    assert text.startswith("# The firewall opens every connection.\n[global]\n")
    assert "hunter2" not in text
    conf.path.chmod(0o644)
    assert "trusted-host =\n    old.example.com\n    other.example.com\n" in text
    seen = conf.seen_by_pip()
    assert seen == {
        "global.cert": "/etc/ssl/firewall.pem",
        "global.index-url": MIRROR,
        "global.timeout": "60",
        "global.trusted-host": "",
        "install.no-compile": "true",
    }
    assert not conf.set(OURS)["changed"]
    conf.set({"global": {"index-url": "https://new.example.com/simple"}})
    assert "global.timeout" not in conf.seen_by_pip()
    assert conf.seen_by_pip()["global.index-url"] == "https://new.example.com/simple"
    assert backup.read_text() == THEIRS
    conf.set({})
    assert conf.path.read_text() == THEIRS.replace(
        "index_url = https://me:hunter2@old.example.com/simple\n", ""
    )


def test_no_password_is_shown(conf: Conf) -> None:
    conf.path.write_text(THEIRS)
    result = conf.set(OURS)
    assert "//***@old.example.com" in result["diff"]["before"]
    assert "hunter2" not in json.dumps(result)


def test_an_option_said_twice_by_somebody_else_is_ours_again(conf: Conf) -> None:
    conf.set(OURS)
    conf.path.write_text(conf.path.read_text() + "index_url = https://other.example.com/simple\n")
    assert conf.set(OURS)["changed"]
    assert conf.seen_by_pip()["global.index-url"] == MIRROR
    assert "other.example.com" not in conf.path.read_text()


def test_a_link_stays_a_link(conf: Conf, tmp_path: Path) -> None:
    (tmp_path / "real.conf").write_text("[global]\ncert = /a\n")
    conf.path.symlink_to("real.conf")
    conf.set(OURS)
    assert conf.path.is_symlink()
    assert MIRROR in (tmp_path / "real.conf").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"global": "x"}, "options.global: give a section"),
        ({"a]b": {}}, "options.a]b: give a section"),
        ({"global": {"index-url": ""}}, "options.global.index-url: give"),
        ({"global": {"index url": "x"}}, "options.global.index url: give"),
    ],
)
def test_what_no_file_can_hold_is_refused(conf: Conf, options: dict[str, Any], said: str) -> None:
    assert said in conf.set(options, fails=True)["msg"]
    assert not conf.path.exists()


def test_a_file_that_pip_cannot_read_is_left_alone_and_named(conf: Conf) -> None:
    conf.path.write_text("index-url = https://me:hunter2@x/\n")
    result = conf.set(OURS, fails=True)
    assert f"{conf.path} is no configuration that pip can read (line 1)" in result["msg"]
    assert "hunter2" not in result["msg"]
    assert conf.path.read_text() == "index-url = https://me:hunter2@x/\n"
