"""The plan knows which of a host's archives may be asked through a mirror host."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.modules.conftest import ROOT, load, write_program

A, B = "http://a.example/debian", "http://b.example:81/x+y"


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module."""
    return load(ROOT / "module_utils" / "vllm_apt.py", monkeypatch)


def host(programs: Path, archives: list[str], *settings: str) -> None:
    """Make stand-ins of apt's programs that tell of such sources and settings."""
    uris = [f"'{one}/InRelease' x 0" for one in archives]
    uris += [f"'{one}/main/binary-amd64/Packages.xz' x 0" for one in archives]
    for name, lines in (("apt-config", settings), ("apt-get", uris)):
        text = "\n".join(["#!/bin/sh", "cat <<'END'", *lines, "END"])
        write_program(programs / name, f"{text}\n")


STABLE, FLAT = f"{A}/dists/stable/updates", f"{B}/."
CASES = [
    # what apt asks, its settings, what may go through a mirror host
    ([FLAT, STABLE, f"{A}//dists/old"], [], [A, B]),
    ([STABLE, "https://b.example/dists/x", "cdrom://x/dists/x", "file:/srv/x/."], [], [A]),
    # A host that is asked by https too would get the proxy there as well.
    ([STABLE, FLAT, "https://a.example/other/dists/x"], [], [B]),
    ([STABLE, "mirror+file:/etc/apt/mirrors/x.list/dists/x"], [], [A]),
    (["http://user:word@a.example/x/dists/x", STABLE, "http://c.example/$(x)/.", FLAT], [], [B]),
    # Where the packages of a flat archive lie is not known when its lists lie deeper.
    (["http://b.example:81/x+y/deep", FLAT, STABLE], [], [A]),
    (["http://a.example/dists/deb/dists/x"], [], ["http://a.example/dists/deb"]),
    ([STABLE, FLAT], ['Acquire::http::Proxy "http://p:1";'], []),
    ([STABLE, FLAT], ['Acquire::http::Proxy "";'], [A, B]),
    ([STABLE, FLAT], ['acquire::HTTP::Proxy::A.example "DIRECT";'], [B]),
    ([STABLE, FLAT], ['Acquire::http::Proxy-Auto-Detect "/usr/bin/x";'], []),
    ([STABLE, FLAT], ['Acquire::http::ProxyAutoDetect "/usr/bin/x";'], []),
]


@pytest.mark.parametrize(("archives", "settings", "found"), CASES)
def test_what_the_operator_has_said_of_proxies_is_left_alone(
    apt: Any, programs: Path, archives: list[str], settings: list[str], found: list[str]
) -> None:
    host(programs, archives, *settings)
    assert apt.archives(None, ()) == found


def test_a_proxy_of_the_environment_is_the_operators_too(apt: Any, programs: Path) -> None:
    host(programs, [STABLE])
    assert apt.archives("http://p:1", ()) == []


def test_an_archive_with_a_password_is_asked_by_the_host_itself(
    apt: Any, programs: Path, tmp_path: Path
) -> None:
    host(programs, [STABLE, FLAT])
    (tmp_path / "auth.conf").write_text("machine http://b.example/x login me password secret\n")
    assert apt.archives(None, (str(tmp_path), str(tmp_path / "none"))) == [A]
    (tmp_path / "auth.conf").write_text("machine a.example\nlogin me\npassword secret\n")
    assert apt.archives(None, (str(tmp_path / "auth.conf"),)) == [B]


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt on this machine")
def test_a_real_apt_tells_its_archives(
    apt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.sources").write_text(
        "Types: deb\nURIs: http://a.example/debian/ http://c.example/s https://d.example/s\n"
        "Suites: stable\nComponents: main\nTrusted: yes\n\n"
        "Types: deb\nURIs: http://b.example:81/x+y\nSuites: ./\nTrusted: yes\n"
    )
    settings = tmp_path / "apt.conf"
    settings.write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/one.sources"; Dir::Etc::sourceparts "/dev/null";\n'
        'Dir::Etc::parts "/dev/null"; Dir::Etc::main "/dev/null";\n'
        f'Dir::State::lists "{tmp_path}/lists"; Dir::Cache "{tmp_path}/cache";\n'
        'Acquire::http::Proxy::C.example "DIRECT";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(settings))
    assert apt.archives(None, ()) == [A, B]
