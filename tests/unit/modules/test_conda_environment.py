"""A conda environment is whole, or is made anew; conda itself is a stand-in here."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.modules.conftest import ModuleRunner, write_program

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = f"python={sys.version_info.major}.{sys.version_info.minor}"
CONDA = """#!/usr/bin/env python3
import os, pathlib, sys, time
prefix = pathlib.Path(sys.argv[sys.argv.index("--prefix") + 1])
here = pathlib.Path(__file__).parent
(here / "calls").open("a").write(" ".join(sys.argv[1:]) + "\\n")
(prefix / "conda-meta").mkdir(parents=True)
if os.environ.get("CONDA_SLOW"):
    (prefix / "half").touch()
    time.sleep(2)
    state = "there" if (prefix / "half").exists() else "gone"
    (here / "calls").open("a").write(f"end, half is {state}\\n")
if os.environ.get("CONDA_FAULT"):
    sys.exit(os.environ["CONDA_FAULT"])
(prefix / "conda-meta/history").write_text("==> now <==\\n")
(prefix / "bin").mkdir()
(prefix / "bin/python").symlink_to(sys.executable)
"""


class Host:
    """The stand-in conda, the base, and the arguments."""

    def __init__(self, tmp_path: Path, module: ModuleRunner) -> None:
        self.module, self.base = module, tmp_path / "releases"
        self.prefix = self.base / "one"
        self.conda = write_program(tmp_path / "conda/conda", CONDA)
        self.conda.write_text(CONDA.replace("/usr/bin/env python3", sys.executable))

    def run(self, **changes: Any) -> dict[str, Any]:
        params = {"conda": str(self.conda), "base": str(self.base), "packages": [PYTHON, "pip"]}
        return self.module(**{"prefix": str(self.prefix), **params, **changes})

    def calls(self) -> int:
        log = self.conda.parent / "calls"
        return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def host(tmp_path: Path, module: ModuleRunner) -> Host:
    return Host(tmp_path, module)


def test_a_new_environment_is_made_once_and_marked(host: Host) -> None:
    first = host.run()
    assert first["changed"]
    assert not first["remade"]
    assert first["python"] == sys.version.split()[0]
    marker = json.loads((host.prefix / ".vllm-release.json").read_text())
    assert marker["stage"] == "environment"
    assert marker["packages"] == [PYTHON, "pip"]
    second = host.run()
    assert not second["changed"]
    assert second["diff"]["before"] == second["diff"]["after"]
    assert host.calls() == 1


def test_check_mode_says_so_and_makes_nothing(host: Host) -> None:
    result = host.run(check=True)
    assert result["changed"]
    assert "it is not there" in result["diff"]["before"]
    assert not host.base.exists()
    assert host.calls() == 0


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("rm .vllm-release.json", "marker is missing or damaged"),
        ("echo '{\"stage\":' > .vllm-release.json", "marker is missing or damaged"),
        ("rm conda-meta/history", "no conda-meta/history"),
        ("rm bin/python; printf '#!/bin/sh\\nexit 1' > bin/python; chmod +x bin/python", "run"),
        ("rm bin/python", "cannot be run"),
    ],
)
def test_what_is_half_made_is_remade(host: Host, damage: str, said: str) -> None:
    import subprocess

    host.run()
    (host.prefix / "left-over").write_text("")
    subprocess.run(["sh", "-c", damage], cwd=host.prefix, check=True)
    assert host.run(check=True)["remade"]
    assert (host.prefix / "left-over").exists()
    result = host.run()
    assert result["changed"]
    assert result["remade"]
    assert said in result["reason"]
    assert not (host.prefix / "left-over").exists()
    assert not host.run()["changed"]


def test_a_failed_conda_leaves_nothing_and_says_the_way_out(host: Host) -> None:
    fault = "CondaToSNonInteractiveError: Terms of Service have not been accepted"
    result = host.run(fails=True, env={"CONDA_FAULT": fault})
    assert fault in result["msg"]
    assert "use mirror channels only" in result["msg"]
    assert not host.prefix.exists()


def test_another_python_than_asked_for_is_refused(host: Host) -> None:
    result = host.run(fails=True, packages=["python=3.1"])
    assert "3.1 was asked for" in result["msg"]
    assert not host.prefix.exists()


def test_a_complete_release_is_never_changed_in_place(host: Host) -> None:
    host.run()
    marker = host.prefix / ".vllm-release.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "stage": "complete"}))
    assert host.run()["stage"] == "complete"
    result = host.run(fails=True, packages=[PYTHON, "pip", "git"])
    assert "another prefix" in result["msg"]
    assert host.calls() == 1


def test_only_directories_below_the_base_are_ours(host: Host, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    assert "below" in host.run(fails=True, prefix=str(precious))["msg"]
    assert "below" in host.run(fails=True, prefix=str(host.base))["msg"]
    host.base.mkdir()
    host.prefix.symlink_to(precious)
    assert "below" in host.run(fails=True)["msg"]
    assert precious.is_dir()


def test_a_missing_conda_is_named(host: Host) -> None:
    assert "/nowhere/conda cannot be run" in host.run(fails=True, conda="/nowhere/conda")["msg"]


def test_a_conda_that_hangs_is_stopped(host: Host) -> None:
    host.conda.write_text("#!/bin/sh\necho solving\nsleep 60\n")
    result = host.run(fails=True, timeout=4)
    assert "did not end within 4 s" in result["msg"]
    assert "solving" in result["msg"]


def test_a_run_killed_in_the_middle_is_made_good_by_the_next(host: Host) -> None:
    import os
    import signal
    import threading
    import time

    def first() -> None:
        # The runner asserts that it ended well, and it was killed.
        with contextlib.suppress(AssertionError):
            host.run(env={"CONDA_SLOW": "1"}, program=["sh", "-c", note, "-", sys.executable])

    note = f'echo $$ > {host.conda.parent}/pid; exec "$@"'
    thread = threading.Thread(target=first)
    thread.start()
    while not (host.prefix / "half").exists():
        time.sleep(0.01)
    os.kill(int((host.conda.parent / "pid").read_text()), signal.SIGKILL)
    thread.join()
    assert host.run(check=True)["remade"], "half-made, so the marker cannot be there"
    result = host.run()
    assert result["remade"]
    assert result["stage"] == "environment"
    assert not (host.prefix / "half").exists()
    # The first conda outlived its module; nobody took the prefix from under it.
    log = (host.conda.parent / "calls").read_text().splitlines()
    assert [line.split()[0] for line in log] == ["create", "end,", "create"]
    assert log[1] == "end, half is there"


def test_a_conda_that_never_ends_is_named(host: Host) -> None:
    import fcntl
    import os

    host.base.mkdir()
    handle = os.open(host.base, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    result = host.run(fails=True, timeout=1)
    os.close(handle)
    assert f"another conda still works below {host.base}" in result["msg"]
    assert host.calls() == 0
