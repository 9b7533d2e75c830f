"""An environment holds exactly its pins; pip and uv are stand-ins here, but where hashes matter."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.standins.package_index import PackageIndex, serving
from tests.unit.modules.conftest import ModuleRunner

if TYPE_CHECKING:
    from collections.abc import Iterator
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
lines = pathlib.Path(sys.argv[sys.argv.index("--requirements") + 1]).read_text().splitlines()
for line in lines:
    name, version = line.split()[0].split("==")
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


HASHES = {"Torch": ["a" * 64, "b" * 64]}


def test_what_has_hashes_comes_from_the_default_index_alone(host: Host) -> None:
    found = host.run(
        hashes=HASHES, indexes=["http://engine/"], default_index="http://m/", find_links=["/wheels"]
    )
    assert set(found["installed"]) == {"torch", "vllm"}
    _, hashed, bare = host.calls()
    assert "--require-hashes" in hashed
    assert "http://engine/" not in hashed
    assert "--require-hashes" not in bare
    assert "--index http://engine/" in bare
    for call in (hashed, bare):
        assert "--default-index http://m/ --find-links /wheels" in call
        assert "--no-deps" in call


def test_hashes_do_not_change_what_a_release_is(host: Host) -> None:
    digest = host.run()["requirements_digest"]
    again = host.run(hashes=HASHES)
    assert not again["changed"]
    assert again["requirements_digest"] == digest


def test_a_password_in_a_page_of_links_is_refused(host: Host) -> None:
    message = host.run(fails=True, find_links=["https://user:hunter2@mirror/wheels/"])["msg"]
    assert "find_links: the URL of mirror carries" in message


def test_what_is_no_sha256_is_refused(host: Host) -> None:
    assert "64 hexadecimal digits" in host.run(fails=True, hashes={"torch": ["md5"]})["msg"]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PackageIndex]:
    with serving(tmp_path / "index") as served:
        yield served


@pytest.fixture
def real(host: Host) -> Host:
    """The environment with the real uv in it."""
    uv = shutil.which("uv")
    assert uv is not None, "uv is among the tests' requirements"
    (host.prefix / "bin/uv").symlink_to(uv)
    host.add("uv", "0.13.8")
    return host


def test_the_file_that_was_locked_is_installed(real: Host, index: PackageIndex) -> None:
    hashes = {"one": [index.add("one")]}
    index.add("one", tag=f"cp3{sys.version_info.minor}-none-any", content="suits better")
    index.add("two")
    result = real.run("one==1.0", "two==1.0", hashes=hashes, default_index=index.url)
    assert set(result["installed"]) == {"one", "two"}
    assert (real.site / "one.py").read_text() == ""


def test_another_file_than_the_locked_one_is_refused_in_one_sentence(
    real: Host, index: PackageIndex
) -> None:
    found, locked = index.add("one"), "0" * 64
    index.add("two")
    pins = ("one==1.0", "two==1.0")
    result = real.run(*pins, hashes={"one": [locked]}, default_index=index.url, fails=True)
    assert result["msg"].startswith(f"one==1.0 from {index.url} is not the file that was locked")
    for words in (found, locked, "vllm_sources", "scripts/lock-engine"):
        assert words in result["msg"]
    assert not (real.site / "one.py").exists()
    assert real.marker()["stage"] == "installing"


def test_wheels_of_a_directory_are_found(real: Host, index: PackageIndex) -> None:
    index.add("one")
    places = [str(index.folder / "one")]
    assert real.run("one==1.0", find_links=places, default_index=f"{index.url}none/")["changed"]
    assert (real.site / "one.py").exists()


class Filled:
    """An environment that the real uv has filled, and its index."""

    def __init__(self, host: Host, index: PackageIndex, aside: Path) -> None:
        self.host, self.index, self.site, self.aside = host, index, host.site, aside
        index.add("one", content="right = True\n")
        index.add("two")
        index.add("stranger")
        shutil.rmtree(self.site / "pip")
        self.run()

    def run(self, **changes: Any) -> dict[str, Any]:
        words = {"exact": True, "default_index": self.index.url, "set_aside": str(self.aside)}
        return self.host.run("one==1.0", "two==1.0", **{**words, **changes})

    def install(self, name: str) -> None:
        uv = str(self.host.prefix / "bin/uv")
        argv = [uv, "pip", "install", "--python", str(self.host.prefix / "bin/python")]
        argv += ["--default-index", self.index.url, "--no-config", "--no-cache", name]
        subprocess.run(argv, check=True, capture_output=True)

    def kept(self) -> dict[str, str]:
        """Return what was set aside, by its old path below site-packages."""
        found = [path for path in self.aside.rglob("*") if path.is_file()]
        return {str(p).partition("site-packages/")[2]: p.read_text() for p in found}


@pytest.fixture
def filled(real: Host, index: PackageIndex, tmp_path: Path) -> Filled:
    return Filled(real, index, tmp_path / "aside")


def test_what_was_made_is_noted_and_left_alone(filled: Filled) -> None:
    marker = filled.host.marker()
    assert "one-1.0.dist-info" in marker["installed"]
    assert marker["filled"] <= marker["proved"]
    assert not filled.run()["changed"]
    assert filled.host.marker() == marker


def test_an_environment_of_before_the_listing_is_noted_and_counts_as_unchanged(
    filled: Filled,
) -> None:
    """No service has to start anew for that."""
    place = filled.host.prefix / ".vllm-release.json"
    old = {
        k: v for k, v in filled.host.marker().items() if k not in ("installed", "proved", "filled")
    }
    place.write_text(json.dumps(old))
    assert filled.run()["changed"]
    assert "filled" not in filled.host.marker()
    assert "installed" in filled.host.marker()
    assert not filled.run()["changed"]


def test_a_stranger_is_removed_and_the_rest_stays(filled: Filled) -> None:
    filled.install("stranger")
    before = filled.host.marker()
    foreseen = filled.run(check=True)
    assert foreseen["repaired"]["strangers"] == ["stranger"]
    assert "stranger (added by hand)" in foreseen["diff"]["before"]
    assert (filled.site / "stranger.py").exists()
    assert filled.run()["changed"]
    assert not (filled.site / "stranger.py").exists()
    after = filled.host.marker()
    assert after["installed"] == before["installed"]
    assert after["filled"] > before["filled"]
    assert not filled.run()["changed"]


def test_another_version_by_hand_is_put_right(filled: Filled) -> None:
    filled.index.add("one", "2.0")
    filled.install("one==2.0")
    assert filled.run()["upgraded"] == {"one": {"from": "2.0", "to": "1.0"}}
    assert not filled.run()["changed"]


def test_an_altered_file_is_put_right_and_kept_aside(filled: Filled) -> None:
    (filled.site / "one.py").write_text("mine = True\n")
    assert not filled.run()["changed"]
    result = filled.run(deep=True)
    assert result["repaired"]["again"] == ["one"]
    assert (filled.site / "one.py").read_text() == "right = True\n"
    assert filled.kept() == {"one.py": "mine = True\n"}
    assert not filled.run(deep=True)["changed"]


def test_missing_files_are_put_back(filled: Filled) -> None:
    (filled.site / "one.py").unlink()
    assert filled.run()["repaired"]["again"] == ["one"]
    assert (filled.site / "one.py").read_text() == "right = True\n"


def test_what_belongs_to_no_package_is_moved_aside(filled: Filled) -> None:
    (filled.site / "mine.pth").write_text("/home/somebody")
    assert filled.run()["repaired"]["strays"] == [str(filled.site / "mine.pth")]
    assert filled.kept() == {"mine.pth": "/home/somebody"}
    assert not filled.run()["changed"]


def test_without_exact_strangers_stay(filled: Filled) -> None:
    filled.install("stranger")
    result = filled.run(exact=False)
    assert not result["changed"]
    assert "stranger" in result["unmanaged"]


def test_what_conda_has_brought_is_no_stranger_and_is_brought_back(filled: Filled) -> None:
    """As conda notes it: each package with its files."""
    meta = filled.host.prefix / "conda-meta"
    meta.mkdir()
    names = ["lib/python3.10/site-packages/stranger-1.0.dist-info/METADATA"]
    (meta / "stranger-1.0-0.json").write_text(json.dumps({"files": names}))
    filled.install("stranger")
    marker = filled.host.marker()
    marker["installed"] = sorted({*marker["installed"], "stranger-1.0.dist-info", "stranger.py"})
    (filled.host.prefix / ".vllm-release.json").write_text(json.dumps(marker))
    assert not filled.run()["changed"]
    filled.index.add("stranger", "2.0")
    filled.install("stranger==2.0")
    assert filled.run()["repaired"]["pins"] == {"stranger": "1.0"}
    assert (filled.site / "stranger-1.0.dist-info").exists()
    assert not filled.run()["changed"]
