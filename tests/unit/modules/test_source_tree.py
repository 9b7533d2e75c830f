"""Sources are here whole or not at all; git is real, pip is a stand-in."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.modules.conftest import ModuleRunner, write_program

if TYPE_CHECKING:
    from pathlib import Path

# Does what "python -m pip download" is asked, from an archive beside it.
PIP = f"""#!{sys.executable}
import os, pathlib, shutil, sys
here = pathlib.Path(__file__).parent
words = sys.argv
(here / "asked").write_text(" ".join(words) + "\\n" + os.environ["VLLM_VERSION_OVERRIDE"] + "\\n"
    + pathlib.Path(words[words.index("--requirement") + 1]).read_text())
if not (here / "vllm-1.2.3.tar.gz").exists():
    sys.exit("ERROR: No matching distribution found for vllm==1.2.3")
shutil.copy(here / "vllm-1.2.3.tar.gz", words[words.index("--dest") + 1])
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The build environment's Python, whose pip serves an archive."""
    tree = tmp_path / "made/vllm-1.2.3"
    tree.mkdir(parents=True)
    (tree / "setup.py").write_text("setup()\n")
    program = write_program(tmp_path / "env/python", PIP)
    with tarfile.open(tmp_path / "env/vllm-1.2.3.tar.gz", "w:gz") as archive:
        archive.add(tree, "vllm-1.2.3")
    return program


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the tag v1.2.3 and a later commit."""
    path = tmp_path / "vllm.git"

    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(path), *identity, *words], check=True, capture_output=True)

    path.mkdir()
    git("init", "--initial-branch=main")
    for number, words in enumerate([["tag", "v1.2.3"], []]):
        (path / "setup.py").write_text(f"setup({number})\n")
        git("add", "setup.py")
        git("commit", "--message", "x")
        if words:
            git(*words)
    return path


def run(module: ModuleRunner, tmp_path: Path, **words: Any) -> dict[str, Any]:
    return module(dest=str(tmp_path / "work/tree"), version="1.2.3", **words)


def test_the_source_archive_is_unpacked_once(
    module: ModuleRunner, tmp_path: Path, python: Path
) -> None:
    result = run(module, tmp_path, python=str(python), default_index="http://mirror:8080/simple/")
    assert result["changed"]
    assert (tmp_path / "work/tree/setup.py").read_text() == "setup()\n"
    assert result["origin"]["file"] == "vllm-1.2.3.tar.gz"
    asked, override, pin = (python.parent / "asked").read_text().splitlines()
    assert "--index-url http://mirror:8080/simple/ --trusted-host mirror:8080" in asked
    assert "--no-binary :all:" in asked
    assert (override, pin) == ("1.2.3", "vllm==1.2.3")
    (python.parent / "asked").unlink()
    again = run(module, tmp_path, python=str(python))
    assert not again["changed"]
    assert again["origin"] == result["origin"]
    assert not (python.parent / "asked").exists()


def test_a_known_checksum_is_handed_to_pip(
    module: ModuleRunner, tmp_path: Path, python: Path
) -> None:
    run(module, tmp_path, python=str(python), sha256="0" * 64)
    assert f"vllm==1.2.3 --hash=sha256:{'0' * 64}" in (python.parent / "asked").read_text()


def test_a_half_made_tree_is_made_anew(module: ModuleRunner, tmp_path: Path, python: Path) -> None:
    (tmp_path / "work/tree").mkdir(parents=True)
    (tmp_path / "work/tree/stale").touch()
    assert run(module, tmp_path, python=str(python))["changed"]
    assert not (tmp_path / "work/tree/stale").exists()


def test_an_archive_that_is_not_served_leaves_nothing(
    module: ModuleRunner, tmp_path: Path, python: Path
) -> None:
    (python.parent / "vllm-1.2.3.tar.gz").unlink()
    result = run(module, tmp_path, python=str(python), fails=True)
    assert "No matching distribution" in result["msg"]
    assert "take them from git" in result["msg"]
    assert list((tmp_path / "work").iterdir()) == []


def test_check_mode_fetches_nothing(module: ModuleRunner, tmp_path: Path, python: Path) -> None:
    assert run(module, tmp_path, python=str(python), check=True)["changed"]
    assert not (tmp_path / "work").exists()


def test_git_takes_the_first_repository_that_serves_the_tag(
    module: ModuleRunner, tmp_path: Path, repository: Path
) -> None:
    urls = [f"file://{tmp_path}/dead.git", f"file://{repository}"]
    result = run(module, tmp_path, kind="git", urls=urls)
    assert [attempt["url"] for attempt in result["attempts"]] == urls[:1]
    assert result["warnings"]
    assert result["origin"]["url"] == urls[1]
    assert (tmp_path / "work/tree/setup.py").read_text() == "setup(0)\n"
    assert not run(module, tmp_path, kind="git", urls=urls)["changed"]


def test_no_repository_that_serves_is_one_error_with_a_line_for_each(
    module: ModuleRunner, tmp_path: Path, repository: Path
) -> None:
    urls = [f"file://{tmp_path}/dead.git", f"file://{repository}"]
    result = module(
        dest=str(tmp_path / "work/tree"), version="9.9", kind="git", urls=urls, fails=True
    )
    assert all(url in result["msg"] for url in urls)
    assert len(result["attempts"]) == 2
    assert list((tmp_path / "work").iterdir()) == []


def test_a_tag_that_was_moved_is_refused(
    module: ModuleRunner, tmp_path: Path, repository: Path
) -> None:
    result = run(
        module, tmp_path, kind="git", urls=[f"file://{repository}"], commit="0" * 40, fails=True
    )
    assert f"{'0' * 40} was expected" in result["msg"]
    assert not (tmp_path / "work/tree").exists()


def test_a_url_with_a_password_is_refused_unseen(module: ModuleRunner, tmp_path: Path) -> None:
    url = "https://user:hunter2@git.example.org/vllm.git"
    result = run(module, tmp_path, kind="git", urls=[url], fails=True)
    assert "hunter2" not in result["msg"]
