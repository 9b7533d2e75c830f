"""Shells of users learn of conda, as the user, once; conda itself is a stand-in here."""

from __future__ import annotations

import os
import pwd
import stat
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.modules.conftest import ModuleRunner, write_program

if TYPE_CHECKING:
    from pathlib import Path

# Writes what genuine conda writes, as far as it matters here, and says who it is.
CONDA = """#!/bin/sh
id -un >> /tmp/calls
[ "$1" = init ] || exit 2
shift
for shell in "$@"; do
  [ -n "$(cat ~/fault 2>/dev/null)" ] && { echo "no such luck" >&2; exit 1; }
  block="# >>> conda initialize >>>\\n%s\\n# <<< conda initialize <<<\\n"
  printf "$block" "'$0' shell.$shell" >> ~/.${shell}rc
done
"""
# root may become anybody; a person who runs the tests has only themselves.
NAME = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


class Host:
    """A user whose home is a directory of the test, and a stand-in conda."""

    def __init__(self, tmp_path: Path, module: ModuleRunner) -> None:
        self.module, self.home = module, tmp_path / "home"
        self.home.mkdir()
        user = pwd.getpwnam(NAME)
        os.chown(self.home, user.pw_uid, user.pw_gid)
        for directory in (tmp_path, *tmp_path.parents):
            if directory.stat().st_uid == os.geteuid() and directory.name:
                directory.chmod(directory.stat().st_mode | stat.S_IXOTH)
        self.log = tmp_path / "calls"
        self.log.touch()
        self.log.chmod(0o666)
        self.conda = write_program(tmp_path / "conda", CONDA.replace("/tmp/calls", str(self.log)))
        # Where the user's home is comes from the system, which a test cannot change.
        patch = tmp_path / "sitecustomize.py"
        patch.write_text(
            "import pwd\n"
            "def find(name, real=pwd.getpwnam):\n"
            "    words = list(real(name))\n"
            f"    words[5] = {str(self.home)!r} if name == {NAME!r} else words[5]\n"
            "    return pwd.struct_passwd(words)\n"
            "pwd.getpwnam = find\n"
        )
        self.env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}

    def run(self, **changes: Any) -> dict[str, Any]:
        words = {"users": [NAME], "conda": str(self.conda), **changes}
        return self.module(env=self.env, **words)

    def calls(self) -> list[str]:
        return self.log.read_text().split()


@pytest.fixture
def host(tmp_path: Path, module: ModuleRunner) -> Host:
    return Host(tmp_path, module)


def test_a_users_shells_learn_of_conda_once_and_the_files_are_theirs(host: Host) -> None:
    (host.home / ".bashrc").write_text("alias a=b\n")
    os.chown(host.home / ".bashrc", pwd.getpwnam(NAME).pw_uid, -1)
    files = [str(host.home / name) for name in (".bashrc", ".zshrc")]
    checked = host.run(check=True)
    assert checked["changed"]
    assert checked["files"] == files
    assert host.calls() == []
    first = host.run()
    assert first["changed"]
    assert first["files"] == files
    assert f"{files[0]}: no conda\n" in first["diff"]["before"]
    assert host.calls() == [NAME]
    assert (host.home / ".bashrc").read_text().startswith("alias a=b\n# >>> conda initialize")
    assert (host.home / ".zshrc").stat().st_uid == pwd.getpwnam(NAME).pw_uid
    again = host.run()
    assert not again["changed"]
    assert again["diff"]["before"] == again["diff"]["after"]
    assert host.calls() == [NAME]


def test_the_block_of_another_installation_is_not_ours(host: Host) -> None:
    for name in (".bashrc", ".zshrc"):
        (host.home / name).write_text(
            "# >>> conda initialize >>>\n'/home/a/conda/bin/conda'\n# <<< conda initialize <<<\n"
        )
        os.chown(host.home / name, pwd.getpwnam(NAME).pw_uid, -1)
    assert host.run()["changed"]
    assert not host.run()["changed"]


def test_a_user_who_is_not_there_is_named_before_anything_changes(host: Host) -> None:
    result = host.run(users=[NAME, "nobody-at-all", "nor-this-one"], fails=True)
    assert "nobody-at-all (no such user), nor-this-one (no such user)" in result["msg"]
    assert host.calls() == []


def test_a_user_without_a_home_is_named(host: Host) -> None:
    host.home.rmdir()
    assert f"{NAME} (no home {host.home})" in host.run(fails=True)["msg"]


def test_a_conda_that_fails_is_quoted(host: Host) -> None:
    (host.home / "fault").write_text("1")
    result = host.run(fails=True)
    assert "no such luck" in result["msg"]
    assert f"{host.home}/.bashrc" in result["msg"]
    assert "is not there" in host.run(fails=True, conda="/nowhere/conda")["msg"]
