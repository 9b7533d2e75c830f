"""The compiler is the first that is new enough; the compilers are stand-ins here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.modules.conftest import ModuleRunner, write_program

if TYPE_CHECKING:
    from pathlib import Path

CANDIDATES = ["g++-12", "g++-13", "g++"]
CONDA = ["conda-forge::gxx_{platform}=12", "conda-forge::libnuma"]


@pytest.fixture
def system(programs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has no compiler but those that a test gives it."""
    monkeypatch.setenv("PATH", f"{programs}:/nowhere")
    return programs


def give(system: Path, **versions: str) -> None:
    for name, version in versions.items():
        write_program(
            system / name.replace("_", "-").replace("gxx", "g++"), f"#!/bin/sh\necho {version}\n"
        )


def ask(module: ModuleRunner, compiler: str = "auto", *, check: bool = False):
    return module(
        compiler=compiler, candidates=CANDIDATES, packages=CONDA, prefix="/env", check=check
    )


@pytest.mark.parametrize(
    ("versions", "chosen"),
    [
        ({"gxx_12": "12.4.0", "gxx": "14.2.0"}, "g++-12"),
        ({"gxx_12": "12.2.0", "gxx_13": "13.1.0"}, "g++-13"),
        ({"gxx_12": "12.3"}, "g++-12"),
        ({"gxx": "14"}, "g++"),
        ({"gxx_12": "not found", "gxx": "13.3.0"}, "g++"),
    ],
)
def test_the_first_compiler_that_is_new_enough_is_taken(
    module: ModuleRunner, system: Path, versions: dict[str, str], chosen: str
) -> None:
    give(system, **versions)
    result = ask(module)
    assert result["kind"] == "system"
    assert result["cxx"] == str(system / chosen)
    assert result["cc"] == str(system / chosen.replace("g++", "gcc"))
    assert result["packages"] == []


@pytest.mark.parametrize("versions", [{}, {"gxx_12": "12.2.0"}])
def test_conda_forges_compiler_stands_in_for_an_old_system(
    module: ModuleRunner, system: Path, versions: dict[str, str]
) -> None:
    give(system, **versions)
    result = ask(module)
    assert result["kind"] == "conda"
    assert result["packages"][0].startswith("conda-forge::gxx_linux-")
    assert "{" not in result["packages"][0]
    assert result["packages"][1] == CONDA[1]
    assert result["cxx"].startswith("/env/bin/")
    assert result["cxx"].endswith("-conda-linux-gnu-g++")


def test_conda_is_taken_without_looking_when_asked_for(module: ModuleRunner, system: Path) -> None:
    give(system, gxx_12="12.4.0")
    assert ask(module, "conda")["kind"] == "conda"


def test_a_system_that_is_too_old_is_refused_with_what_it_has(
    module: ModuleRunner, system: Path
) -> None:
    give(system, gxx_12="12.2.0")
    result = module(compiler="system", candidates=CANDIDATES, fails=True)
    assert "g++ of version 12.3 or newer is needed" in result["msg"]
    assert f"{system}/g++-12 is 12.2.0" in result["msg"]
    assert "compiler: conda" in result["msg"]


def test_a_bare_system_is_refused_but_not_before_it_is_prepared(
    module: ModuleRunner, system: Path
) -> None:
    assert "there is none" in module(compiler="system", candidates=CANDIDATES, fails=True)["msg"]
    assert ask(module, "system", check=True)["kind"] == "system"
