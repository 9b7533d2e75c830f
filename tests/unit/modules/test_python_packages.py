"""An environment holds exactly its pins; pip and uv are stand-ins here."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.modules.conftest import ModuleRunner

if TYPE_CHECKING:
    from pathlib import Path

# "python -m pip install uv==X" puts the stand-in uv into the environment.
PIP = """
import pathlib, sys
prefix = pathlib.Path(sys.prefix)
site = pathlib.Path(__file__).parent.parent
version = next(word for word in sys.argv if word.startswith("uv==")).partition("==")[2]
(prefix / "calls").open("a").write("pip " + " ".join(sys.argv[1:]) + "\\n")
info = site / f"uv-{version}.dist-info"
info.mkdir()
(info / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: uv\\nVersion: {version}\\n")
body = (site / "uv_stand_in.py").read_text()
(prefix / "bin/uv").write_text("#!" + sys.executable + "\\n" + body)
(prefix / "bin/uv").chmod(0o755)
"""
UV = """
import os, pathlib, shutil, sys, sysconfig
prefix, site = pathlib.Path(sys.prefix), pathlib.Path(sysconfig.get_path("purelib"))
(prefix / "calls").open("a").write("uv " + " ".join(sys.argv[1:]) + "\\n")
pathlib.Path(os.environ["UV_CACHE_DIR"]).mkdir(parents=True, exist_ok=True)
lines = pathlib.Path(sys.argv[sys.argv.index("--requirements") + 1]).read_text().split()
for line in lines:
    name, version = line.split("==")
    if name == os.environ.get("UV_FAULT"):
        sys.exit("\\n".join(f"line {n}" for n in range(60)) + f"\\nNo solution found for {line}")
    for old in site.glob(f"{name}-*.dist-info"):
        shutil.rmtree(old)
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
"""


class Host:
    """A bare environment with the stand-ins in it."""

    def __init__(self, tmp_path: Path, module: ModuleRunner) -> None:
        self.module, self.prefix, self.cache = module, tmp_path / "env", tmp_path / "cache"
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", str(self.prefix)], check=True
        )
        self.site = next(self.prefix.glob("lib/python*/site-packages"))
        (self.site / "pip").mkdir()
        (self.site / "pip/__main__.py").write_text(PIP)
        (self.site / "uv_stand_in.py").write_text(UV)

    def run(self, *pins: str, **changes: Any) -> dict[str, Any]:
        params = {"prefix": str(self.prefix), "cache_dir": str(self.cache)}
        pins = pins or ("vllm==0.31.0+cpu", "torch==2.13.0")
        return self.module(**{"requirements": list(pins), **params, **changes})

    def add(self, name: str, version: str) -> None:
        info = self.site / f"{name}-{version}.dist-info"
        info.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (info / "METADATA").write_text(text)

    def calls(self) -> list[str]:
        log = self.prefix / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def marker(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.prefix / ".vllm-release.json").read_text())
        return content


@pytest.fixture
def host(tmp_path: Path, module: ModuleRunner) -> Host:
    return Host(tmp_path, module)


def test_pins_are_installed_once_and_the_release_is_complete(host: Host) -> None:
    first = host.run(indexes=["http://origin/simple/"], default_index="http://mirror:8080/simple/")
    assert first["changed"]
    assert first["installed"] == {"torch": "2.13.0", "vllm": "0.31.0+cpu"}
    assert first["diff"]["after"] == "torch==2.13.0\nvllm==0.31.0+cpu\n"
    assert host.marker()["stage"] == "complete"
    assert host.marker()["requirements_digest"] == first["requirements_digest"]
    assert not host.cache.exists()
    pip, uv = host.calls()
    assert "--index-url http://mirror:8080/simple/ --trusted-host mirror:8080" in pip
    assert "--index http://origin/simple/ --default-index http://mirror:8080/simple/" in uv
    assert "--no-deps" in uv
    second = host.run()
    assert not second["changed"]
    assert second["diff"]["after"] == ""
    assert len(host.calls()) == 2


def test_check_mode_installs_nothing(host: Host) -> None:
    result = host.run(check=True)
    assert result["changed"]
    assert set(result["installed"]) == {"torch", "vllm"}
    assert host.calls() == []


def test_check_mode_foresees_an_environment_that_is_not_there(host: Host, tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    assert host.run(check=True, prefix=absent)["installed"]["vllm"] == "0.31.0+cpu"
    assert "make the environment first" in host.run(fails=True, prefix=absent)["msg"]


def test_another_version_is_changed_and_strangers_are_reported(host: Host) -> None:
    host.add("Some_Package", "1.0")
    host.add("torch", "2.12.0")
    result = host.run()
    assert result["upgraded"] == {"torch": {"from": "2.12.0", "to": "2.13.0"}}
    assert result["unmanaged"] == {"some-package": "1.0"}
    assert not host.run()["changed"]


def test_a_local_version_is_part_of_the_version(host: Host) -> None:
    host.run("torch==2.13.0")
    assert host.run("torch==2.13.0+cpu", check=True)["upgraded"] == {
        "torch": {"from": "2.13.0", "to": "2.13.0+cpu"}
    }


def test_names_are_compared_as_pep_503_has_them(host: Host) -> None:
    host.add("Typing_Extensions", "4.1")
    assert host.run("typing.extensions==4.1", check=True)["installed"] == {}


def test_a_failure_shows_the_last_lines_and_is_made_good(host: Host) -> None:
    result = host.run(fails=True, env={"UV_FAULT": "torch"})
    assert "No solution found for torch==2.13.0" in result["msg"]
    assert len(result["output"].splitlines()) == 40
    assert host.marker()["stage"] == "installing"
    assert host.cache.exists()
    again = host.run()
    assert again["reinstalled"]
    assert "--reinstall" in host.calls()[-1]
    assert host.marker()["stage"] == "complete"
    assert not host.run()["changed"]


def test_what_is_no_pin_is_refused_with_all_others(host: Host) -> None:
    message = host.run("torch>=2", "numpy", "x==1", "x==2", fails=True)["msg"]
    assert "torch>=2" in message
    assert "numpy" in message
    assert "x==2" in message


def test_a_password_in_an_index_is_refused_and_not_repeated(host: Host) -> None:
    result = host.run(fails=True, indexes=["https://user:hunter2@mirror/simple"])
    assert "mirror carries a user or password" in result["msg"]
    result.pop("invocation")
    assert "hunter2" not in json.dumps(result)
