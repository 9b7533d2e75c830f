"""Generations: whole or not there, brought back as they were, and not too many of them."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.modules.conftest import ROOT, ModuleRunner, load, write_program


class Host:
    """A host below a directory: a service's files, releases, the link to one, a receipt."""

    def __init__(self, root: Path, module: ModuleRunner) -> None:
        self.root, self.module = root, module
        self.generations = root / "generations"
        self.receipt = root / "receipt.json"
        self.current = root / "current"
        self.processes = list[subprocess.Popen[bytes]]()

    def __call__(self, state: str, **more: Any) -> dict[str, Any]:
        places: dict[str, Any] = {
            "root": str(self.generations),
            "receipt": str(self.receipt),
            "notes": str(self.root / "notes"),
            "releases": str(self.root / "releases"),
        }
        return self.module(state=state, **places, **more)

    def release(self, name: str, stage: str = "complete") -> Path:
        path = self.root / "releases" / name
        path.mkdir(parents=True, exist_ok=True)
        (path / ".vllm-release.json").write_text(json.dumps({"format": 1, "stage": stage}))
        return path

    def serve(self, version: str, digest: str, *instances: str) -> None:
        """Leave the host as a successful run leaves it."""
        release = self.release(version)
        self.current.unlink(missing_ok=True)
        self.current.symlink_to(release)
        files = []
        for name in instances or ("a",):
            for kind in ("yaml", "env"):
                path = self.root / "etc" / f"{name}.{kind}"
                path.parent.mkdir(exist_ok=True)
                path.write_text(f"{kind} of {digest}\n")
                path.chmod(0o600 if kind == "env" else 0o640)
                files.append({"path": str(path), "secret": kind == "env"})
            note = self.root / "notes" / f"{name}.started-with"
            note.parent.mkdir(exist_ok=True)
            note.write_text(f"{digest}\n")
        names = instances or ("a",)
        content = {
            "release": {"id": f"{version}-cpu", "version": version, "path": str(release)},
            "instances": [{"name": n, "unit": f"vllm@{n}.service", "socket": "s"} for n in names],
        }
        self.receipt.write_text(json.dumps({
            "format": 1, "plan_digest": digest * 64, "content": content, "files": files,
            "links": [{"path": str(self.current), "target": str(release)}],
            "units": [*(f"vllm@{n}.service" for n in names), "nginx.service"],
        }))  # fmt: skip

    def run(self, version: str, digest: str, *instances: str) -> None:
        """What a successful run does: it serves, and is kept."""
        self.serve(version, digest, *instances)
        self("saved")

    def names(self) -> list[str]:
        return [one["name"][:1] for one in self("listed")["generations"]]


@pytest.fixture
def host(tmp_path: Path, module: ModuleRunner) -> Iterator[Host]:
    made = Host(tmp_path, module)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def test_what_is_kept_is_for_root_alone_and_is_kept_once(host: Host) -> None:
    host.serve("1", "a")
    first = host("saved")
    assert (first["changed"], first["generation"]["release"]) == (True, "1-cpu")
    assert first["current"] == "a" * 12
    kept = host.generations / ("a" * 12)
    for path in [host.generations, kept, *kept.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*")}
    assert host("saved")["changed"] is False
    assert {path: path.stat().st_mtime_ns for path in kept.rglob("*")} == before


def test_a_host_that_has_no_receipt_has_nothing_to_keep(host: Host) -> None:
    said = host("saved")
    assert (said["changed"], said["generation"]) == (False, None)
    assert "receipt" in said["why"]
    host.serve("1", "a")
    (host.root / "etc/a.yaml").unlink()
    assert "a.yaml" in host("saved")["why"]
    assert host.names() == []


def test_check_mode_says_what_would_be_kept_and_keeps_nothing(host: Host) -> None:
    host.serve("1", "a")
    assert host("saved", check=True)["changed"]
    assert not host.generations.exists()
    host("saved")
    assert not host("saved", check=True)["changed"]


def test_before_a_change_what_was_kept_after_the_last_one_stays(host: Host) -> None:
    host.run("1", "a")
    (host.root / "etc/a.yaml").write_text("changed by hand\n")
    assert host("saved", again=False)["changed"] is False
    host("restored", name="a" * 12)
    assert (host.root / "etc/a.yaml").read_text() == "yaml of a\n"
    # After a run that found it good it is what the host is.
    (host.root / "etc/a.yaml").write_text("carried out again\n")
    assert host("saved")["changed"]


def test_the_one_before_is_brought_back_whole(host: Host) -> None:
    host.run("1", "a", "one", "two")
    host.run("2", "b", "one", "three")
    said = host("restored")
    assert said["changed"]
    assert (said["generation"]["version"], said["current"][:1]) == ("1", "b")
    assert host.current.resolve().name == "1"
    assert (host.root / "etc/two.env").read_text() == "env of a\n"
    assert stat.S_IMODE((host.root / "etc/two.env").stat().st_mode) == 0o600
    assert not (host.root / "etc/three.yaml").exists()
    assert said["surplus"] == ["vllm@three.service"]
    assert [one["restart"] for one in said["instances"]] == [True, True]
    # It is not in use before it has answered.
    assert json.loads(host.receipt.read_text())["plan_digest"][:1] == "b"
    used = host("used", name=said["generation"]["name"])
    assert (used["changed"], used["current"][:1]) == (True, "a")
    assert json.loads(host.receipt.read_text())["plan_digest"][:1] == "a"
    assert (host.root / "notes/one.started-with").read_text() == "a\n"


def test_going_back_from_going_back(host: Host) -> None:
    host.run("1", "a")
    host.run("2", "b")
    for version in ("1", "2", "1"):
        said = host("restored")
        assert said["generation"]["version"] == version
        host("used", name=said["generation"]["name"])
        assert host.current.resolve().name == version


@pytest.mark.parametrize("word", ["a" * 12, "1", "1-cpu"])
def test_a_generation_is_meant_by_its_name_its_release_or_its_version(
    host: Host, word: str
) -> None:
    for version, digest in (("1", "a"), ("2", "b"), ("3", "c")):
        host.run(version, digest)
    assert host("restored", name=word)["generation"]["version"] == "1"


def test_what_is_not_kept_is_refused_with_what_is(host: Host) -> None:
    said = host("restored", fails=True)
    assert "none: a successful run" in said["msg"]
    host.run("1", "a")
    said = host("restored", fails=True)
    assert "no earlier generation" in said["msg"]
    assert "a" * 12 + "  1-cpu" in said["msg"]
    host.run("2", "b")
    said = host("restored", name="0.9.9", fails=True)
    assert "'0.9.9'" in said["msg"]
    assert [one["version"] for one in said["generations"]] == ["2", "1"]
    assert host.current.resolve().name == "2"


def test_only_what_differs_is_started_anew(host: Host) -> None:
    host.run("1", "a", "one", "two")
    said = host("restored", name="a" * 12)
    assert (said["changed"], [one["restart"] for one in said["instances"]]) == (False, [False] * 2)
    (host.root / "etc/two.env").write_text("by a failed run\n")
    said = host("restored", name="a" * 12, check=True)
    assert [one["restart"] for one in said["instances"]] == [False, True]
    assert (host.root / "etc/two.env").read_text() == "by a failed run\n"
    said = host("restored", name="a" * 12)
    assert said["written"] == [str(host.root / "etc/two.env")]
    # Cut off before they were started: whoever comes next knows.
    said = host("restored", name="a" * 12)
    assert [one["restart"] for one in said["instances"]] == [False, True]
    host("used", name="a" * 12)
    assert not host("restored", name="a" * 12)["changed"]


def test_a_process_of_the_generation_s_release_is_left_alone_though_the_link_was_moved(
    host: Host, programs: Path
) -> None:
    """A run that failed at the first instance has not touched the second one."""
    host.run("1", "a", "one", "two")
    for name, version in (("one", "2"), ("two", "1")):
        program = host.release(version) / "bin/sleep"
        program.parent.mkdir(exist_ok=True)
        shutil.copy(str(shutil.which("sleep")), program)
        process = subprocess.Popen([str(program), "60"])
        host.processes.append(process)
        (host.root / f"{name}.pid").write_text(str(process.pid))
    unit = 'name=${4#vllm@}; cat "' + str(host.root) + '/${name%.service}.pid"'
    write_program(programs / "systemctl", f"#!/bin/sh\n{unit}\n")
    host.current.unlink()
    host.current.symlink_to(host.release("2"))
    said = host("restored", name="a" * 12)
    assert host.current.resolve().name == "1"
    assert [one["restart"] for one in said["instances"]] == [True, False]


def test_a_file_that_comes_back_is_as_old_as_it_was(host: Host) -> None:
    """By its age it is told whether a service has read it."""
    host.serve("1", "a")
    path = host.root / "etc/a.yaml"
    os.utime(path, (1_600_000_000, 1_600_000_000))
    host("saved")
    path.write_text("by a failed run\n")
    host("restored", name="a" * 12)
    assert path.stat().st_mtime == 1_600_000_000


def test_what_a_failed_run_has_made_goes_with_it(host: Host) -> None:
    host.run("1", "a")
    (host.root / "etc/new.yaml").write_text("")
    made = [str(host.root / "etc/new.yaml")]
    said = host("restored", name="a" * 12, files=made, units=["vllm@new.service"])
    assert not (host.root / "etc/new.yaml").exists()
    assert said["surplus"] == ["vllm@new.service"]


def test_a_generation_whose_release_is_gone_is_refused(host: Host) -> None:
    host.run("1", "a")
    host.run("2", "b")
    host.release("1", "installing")
    said = host("restored", fails=True)
    assert "no longer there whole" in said["msg"]
    assert host.current.resolve().name == "2"


def test_a_generation_whose_model_is_gone_is_refused(host: Host) -> None:
    host.run("1", "a")
    about = host.generations / ("a" * 12) / "generation.json"
    said = json.loads(about.read_text())
    model = host.root / "models/m"
    about.write_text(json.dumps({**said, "models": [str(model)]}))
    host.run("2", "b")
    assert f"served {model}" in host("restored", fails=True)["msg"]
    model.mkdir(parents=True)
    host("restored")


def test_a_damaged_copy_is_refused_before_anything_is_touched(host: Host) -> None:
    host.run("1", "a", "one", "two")
    host.run("2", "b", "one", "two")
    (host.generations / ("a" * 12) / "files/0004").write_text("x")
    said = host("restored", fails=True)
    assert "two.env is damaged" in said["msg"]
    assert (host.root / "etc/one.yaml").read_text() == "yaml of b\n"


def test_too_many_are_given_up_but_never_the_one_in_use_or_the_one_before(host: Host) -> None:
    for version, digest in (("1", "a"), ("2", "b"), ("3", "c"), ("4", "d")):
        host.run(version, digest)
    host.release("broken", "installing")
    host("restored", name="1")
    host("used", name="1")
    would = host("pruned", keep=2, check=True)
    assert len(host.names()) == 4
    said = host("pruned", keep=2)
    assert said["removed"] == would["removed"]
    assert [Path(one).name[:1] for one in said["removed"]] == ["c", "b", "2", "3", "b"]
    assert host.names() == ["a", "d"]
    assert sorted(path.name for path in (host.root / "releases").iterdir()) == ["1", "4"]
    assert host("pruned", keep=2)["changed"] is False


def test_states_of_a_kept_release_are_kept_with_it(host: Host) -> None:
    host.run("1", "0")
    for digest in "abcdef":
        host.run("2", digest)
    host("pruned", keep=2)
    assert host.names() == ["f", "e", "d", "c", "b", "a", "0"]
    for digest in "12345678":
        host.run("2", digest)
    host("pruned", keep=2)
    assert len(host.names()) <= 11
    # The other release is still to be had.
    assert host("restored", name="1", check=True)["generation"]["version"] == "1"


Interrupt = Callable[[int], None]


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Ends the process, as it were, at the n-th rename."""
    rename, replace = Path.rename, Path.replace
    left = [10**6]

    def wrapped(how: Callable[..., Any]) -> Callable[..., Any]:
        def moved(self: Path, target: Path) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return how(self, target)

        return moved

    monkeypatch.setattr(Path, "rename", wrapped(rename))
    monkeypatch.setattr(Path, "replace", wrapped(replace))

    def after(count: int) -> None:
        left[0] = count

    return after


def test_a_half_saved_generation_is_never_used(
    host: Host, monkeypatch: pytest.MonkeyPatch, interrupted: Interrupt
) -> None:
    module = load(ROOT / "module_utils/vllm_generations.py", monkeypatch)
    store, notes = module.Store(host.generations), module.Notes(host.root / "notes")

    def save(digest: str) -> None:
        host.serve("1", "a")
        (host.root / "etc/a.yaml").write_text(digest)
        receipt = json.loads(host.receipt.read_text())
        about, files = module.described(receipt, notes)
        store.save(host.receipt.read_bytes(), module.stamped(about), files)

    for count in range(40):
        interrupted(count)
        try:
            save(f"text {count}")
        except KeyboardInterrupt:
            interrupted(10**6)
            # Old or new, but whole; before the first there is none.
            for one in store.kept():
                assert one.files()[0].data.startswith(b"text ")
            continue
        break
    interrupted(10**6)
    assert count > 4, "the interruption did not happen"
    assert [one.name for one in store.kept()] == ["a" * 12]
    again = 0
    for left in range(40):
        interrupted(left)
        try:
            save("newer")
        except KeyboardInterrupt:
            interrupted(10**6)
            (one,) = store.kept()
            assert one.files()[0].data in (f"text {count}".encode(), b"newer")
            again += 1
            continue
        break
    interrupted(10**6)
    assert again > 4
    save("last")
    assert [path.name for path in host.generations.iterdir()] == ["a" * 12]
