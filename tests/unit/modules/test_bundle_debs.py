"""Debian packages come into a bundle with all that they need; apt and gpg are stand-ins here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.modules.conftest import ModuleRunner, write_program

# Says and downloads two packages, as apt-get does: one has an epoch, which its file's name hides.
APT = """#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
  *nonsense*) echo "E: Unable to locate package nonsense" >&2; exit 100 ;;
  *--print-uris*)
    echo "'http://a/pool/nginx_1.0-1_amd64.deb' nginx_1.0-1_amd64.deb 5 SHA256:00"
    echo "'http://a/pool/git_2.0-1_amd64.deb' git_1%3a2.0-1_amd64.deb 3 SHA256:00" ;;
  *--download-only*)
    for word in "$@"; do case "$word" in Dir::Cache::archives=*) cache=${word#*=} ;; esac; done
    printf nginx > "$cache/nginx_1.0-1_amd64.deb"
    printf git > "$cache/git_1%3a2.0-1_amd64.deb" ;;
esac
"""
INDEX = '#!/bin/sh\nfor word in "$@"; do last2=$last; last=$word; done; echo "$last2 of $(ls)"\n'
GPG = """#!/bin/sh
for word in "$@"; do
  if [ "$before" = --output ]; then echo signed > "$word"; fi
  before=$word
done
case "$*" in *--export*) echo "-----BEGIN PGP PUBLIC KEY BLOCK-----" ;; esac
"""


@pytest.fixture
def run(tmp_path: Path, module: ModuleRunner, programs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    write_program(programs / "apt-get", APT)
    write_program(programs / "apt-ftparchive", INDEX)
    write_program(programs / "gpg", GPG)
    write_program(programs / "gpgconf", "#!/bin/sh\n")
    places: dict[str, Any] = {"dest": str(tmp_path / "apt"), "cache_dir": str(tmp_path / "cache")}

    def call(*names: str, **words: Any) -> dict[str, Any]:
        return module(names=list(names), **places, **words)

    return call


def test_the_repository_has_all_files_under_the_archives_names(run: Any, tmp_path: Path) -> None:
    result = run("nginx", "git")
    assert result["changed"]
    assert result["packages"] == ["git_2.0-1_amd64.deb", "nginx_1.0-1_amd64.deb"]
    assert result["bytes"] == 8
    folder = tmp_path / "apt"
    assert "nginx_1.0-1_amd64.deb" in (folder / "Packages").read_text()
    assert (folder / "InRelease").read_text() == "signed\n"
    assert "PUBLIC KEY" in (folder / "key.asc").read_text()
    assert not run("nginx", "git")["changed"]


def test_packages_are_chosen_as_if_nothing_were_installed(run: Any, tmp_path: Path) -> None:
    run("nginx")
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if "nginx" in line]
    assert len(lines) == 2
    for line in lines:
        assert "Dir::State::status=" in line
        assert "/var/lib/dpkg" not in line


def test_an_unknown_package_is_told_in_apts_words(run: Any, tmp_path: Path) -> None:
    run("nginx")
    assert "Unable to locate package nonsense" in run("nonsense", fails=True)["msg"]
    assert (tmp_path / "apt/InRelease").is_file()


def test_check_mode_asks_nobody(run: Any, tmp_path: Path) -> None:
    assert run("nginx", check=True)["changed"]
    assert not (tmp_path / "log").exists()
