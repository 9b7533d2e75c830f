"""What somebody else configures of our units is moved to where nothing reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.modules.conftest import ModuleRunner, write_program

if TYPE_CHECKING:
    from pathlib import Path

# Like systemd, it lists those drop-ins that are there.
SYSTEMCTL = """#!/bin/sh
here=$(dirname "$0")
if [ "$1" = daemon-reload ]; then echo reload >> "$here/calls"; exit 0; fi
while [ "$1" != -- ]; do shift; done
shift
for unit; do
    echo "Id=$unit"
    echo "FragmentPath=$(ls "$here/units/$unit" 2>/dev/null || echo "$here/units/vllm@.service")"
    echo "DropInPaths=$(ls "$here/units/$unit.d/"*.conf "$here/units/vllm@.service.d/"*.conf \
        2>/dev/null | tr '\\n' ' ')"
    echo
done
"""


class Host:
    """A host with the unit vllm@tiny.service."""

    def __init__(self, tmp: Path, programs: Path, module: ModuleRunner) -> None:
        self.module, self.programs = module, programs
        self.units, self.aside = programs / "units", tmp / "aside"
        write_program(programs / "systemctl", SYSTEMCTL)
        self.ours = self.write("vllm@tiny.service.d/vllm.conf")
        self.file = self.write("vllm@.service")

    def write(self, name: str, text: str = "[Service]\n") -> Path:
        path = self.units / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, **changes: Any) -> dict[str, Any]:
        files = [str(self.ours), str(self.file)]
        words = {"units": ["vllm@tiny.service"], "files": files, "set_aside": str(self.aside)}
        return self.module(**{**words, **changes})


@pytest.fixture
def host(tmp_path: Path, programs: Path, module: ModuleRunner) -> Host:
    return Host(tmp_path, programs, module)


@pytest.mark.parametrize(
    "name",
    ["vllm@tiny.service.d/override.conf", "vllm@.service.d/all.conf", "vllm@tiny.service"],
)
def test_it_is_moved_with_its_content_and_systemd_hears_of_it(host: Host, name: str) -> None:
    theirs = host.write(name, "[Service]\nNice=5\n")
    foreseen = host.run(check=True)
    assert foreseen["changed"]
    assert theirs.exists()
    result = host.run()
    [moved] = result["moved"]
    assert moved["from"] == str(theirs)
    [kept] = [path for path in host.aside.rglob("*") if path.is_file()]
    assert kept.read_text() == "[Service]\nNice=5\n"
    assert str(kept).endswith(str(theirs))
    assert oct(host.aside.stat().st_mode & 0o7777) == "0o700"
    assert not theirs.exists()
    # A directory that nothing is left in goes too.
    assert sorted(host.units.glob("*.d")) == [host.ours.parent]
    assert host.ours.exists()
    assert host.file.exists()
    assert (host.programs / "calls").read_text() == "reload\n"
    assert str(theirs) in result["diff"]["before"]
    assert not host.run()["changed"]


def test_a_unit_that_is_ours_alone_is_left(host: Host) -> None:
    assert not host.run()["changed"]
    assert not host.aside.exists()
    assert not (host.programs / "calls").exists()
