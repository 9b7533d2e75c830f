"""A service's files change together, or not at all."""

from __future__ import annotations

import getpass
import grp
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.unit.modules.conftest import ROOT, ModuleRunner, load

ME = getpass.getuser()
MINE = grp.getgrgid(os.getgid()).gr_name


def file(path: Path, text: str = "a\n", **more: Any) -> dict[str, Any]:
    return {"path": str(path), "content": text, "owner": ME, "group": MINE, "mode": "0640", **more}


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_files_are_written_with_their_bits_and_a_second_time_nothing_changes(
    module: ModuleRunner, tmp_path: Path
) -> None:
    wanted = [file(tmp_path / "new/a"), file(tmp_path / "b", "b\n", mode="0600")]
    first = module(files=wanted)
    assert (first["changed"], len(first["written"])) == (True, 2)
    assert (tmp_path / "new/a").read_text() == "a\n"
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600
    again = module(files=wanted)
    assert (again["changed"], again["written"], again["removed"]) == (False, [], [])
    assert names(tmp_path) == ["b", "new"]


def test_bits_alone_are_put_right(module: ModuleRunner, tmp_path: Path) -> None:
    module(files=[file(tmp_path / "a")])
    (tmp_path / "a").chmod(0o666)
    assert module(files=[file(tmp_path / "a")])["written"] == [str(tmp_path / "a")]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_check_mode_says_it_and_touches_nothing(module: ModuleRunner, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    said = module(check=True, files=[file(tmp_path / "a")], absent=[str(tmp_path / "old")])
    assert said["written"] == [str(tmp_path / "a")]
    assert said["removed"] == [str(tmp_path / "old")]
    assert names(tmp_path) == ["old"]


def test_in_check_mode_an_owner_may_be_missing_yet(module: ModuleRunner, tmp_path: Path) -> None:
    wanted = [file(tmp_path / "a", owner="nobody-yet")]
    assert module(check=True, files=wanted)["changed"]
    assert "nobody-yet" in module(files=wanted, fails=True)["msg"]


def test_when_one_cannot_be_written_none_is_replaced(module: ModuleRunner, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    said = module(
        files=[file(tmp_path / "a", "new"), file(tmp_path / "b", group="no-such-group")],
        fails=True,
    )
    assert "no-such-group" in said["msg"]
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_the_last_file_of_a_drop_in_takes_its_directory_along(
    module: ModuleRunner, tmp_path: Path
) -> None:
    drop_in = tmp_path / "vllm@a.service.d" / "vllm.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\n")
    (drop_in.parent / "mine.conf").write_text("")
    module(absent=[str(drop_in)])
    assert names(drop_in.parent) == ["mine.conf"]
    (drop_in.parent / "mine.conf").rename(drop_in)
    module(absent=[str(drop_in)])
    assert names(tmp_path) == []


def test_a_secret_is_in_no_output(module: ModuleRunner, tmp_path: Path) -> None:
    path = tmp_path / "a.env"
    path.write_text("TOKEN=older-secret-0815\n")
    wanted = file(path, mode="0600")
    del wanted["content"]
    said = module(files=[{**wanted, "secret": "TOKEN=newer-secret-4711\n"}])
    assert path.read_text() == "TOKEN=newer-secret-4711\n"
    text = json.dumps(said)
    assert "4711" not in text
    assert "0815" not in text


def test_the_diff_shows_what_is_no_secret(module: ModuleRunner, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before\n")
    (shown,) = module(files=[file(tmp_path / "a", "after\n")])["diff"]
    assert (shown["before"], shown["after"]) == ("before\n", "after\n")


def test_an_interruption_leaves_whole_files_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placing = load(ROOT / "module_utils/vllm_placing.py", monkeypatch)
    files = [
        placing.Placed(str(tmp_path / name), b"new", 0o600, ME, MINE) for name in ("a", "b", "c")
    ]
    for name in "abc":
        (tmp_path / name).write_text("old")
    replace, count = Path.replace, []

    def interrupted(self: Path, target: Path) -> Path:
        count.append(target)
        if len(count) == 2:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        placing.place(files)
    assert names(tmp_path) == ["a", "b", "c"]
    assert [(tmp_path / name).read_text() for name in "abc"] == ["new", "old", "old"]
