"""A version of Miniconda is added with checksums that sources agree on; nothing else changes."""

from __future__ import annotations

import functools
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import yaml
from typer.testing import CliRunner

from vllm_ansible import paths
from vllm_ansible.cli.add_miniconda import app, file_name, mirrors
from vllm_ansible.versions import ARCHITECTURES, problems, read_installers, with_installers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typer.testing import Result

NEW = "py39_26.7.1-1"
CONTENT = {one: f"installer for {one}".encode() * 500 for one in ARCHITECTURES}
SUMS = {one: hashlib.sha256(content).hexdigest() for one, content in CONTENT.items()}
ZERO, ONE = "0" * 64, "1" * 64


class Quiet(SimpleHTTPRequestHandler):
    """A directory over HTTP."""

    def log_message(self, format: str, *words: object) -> None:  # noqa: A002
        """Says nothing."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a small mirror and the directory that it serves, with a good one and a bad."""
    root = tmp_path / "www"
    for name in ("good", "other", "bad"):
        (root / name).mkdir(parents=True)
        for one, content in CONTENT.items():
            changed = content[:-1] if name == "bad" else content
            (root / name / file_name(NEW, one)).write_bytes(changed)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()
    server.server_close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the project's data."""
    path = tmp_path / "versions.yml"
    path.write_text((paths.DATA / "versions.yml").read_text("utf-8"), "utf-8")
    return path


def add(data: Path, *sources: str, version: str = NEW) -> Result:
    words = [word for source in sources for word in ("--from", source)]
    return CliRunner().invoke(app, [version, "--data", str(data), *words])


def test_a_version_is_added_in_its_place_and_all_else_stays(
    mirror: tuple[str, Path], data: Path
) -> None:
    before = data.read_text()
    url, _ = mirror
    done = add(data, f"{url}/good", f"{url}/other/")
    assert done.exit_code == 0, done.output
    after = data.read_text()
    assert read_installers(after)[NEW] == SUMS
    assert next(iter(read_installers(after))) == NEW, "3.9 comes before 3.10"
    assert problems(after) == []
    added = [line for line in after.splitlines() if line not in before.splitlines()]
    assert after.replace("".join(f"{line}\n" for line in added), "") == before
    again = add(data, f"{url}/good", f"{url}/other/")
    assert again.exit_code == 0
    assert "is there, with these checksums" in again.output
    assert data.read_text() == after


def test_sources_that_differ_write_nothing(mirror: tuple[str, Path], data: Path) -> None:
    before = data.read_text()
    url, _ = mirror
    done = add(data, f"{url}/good", f"{url}/bad")
    assert done.exit_code == 1
    assert "the sources differ" in done.output
    assert f"{url}/good: {SUMS['aarch64']}" in done.output
    assert data.read_text() == before


def test_a_source_that_fails_is_named_and_one_alone_is_said(
    mirror: tuple[str, Path], data: Path
) -> None:
    url, _ = mirror
    done = add(data, f"{url}/none", "http://127.0.0.1:9/", f"{url}/good")
    assert done.exit_code == 0, done.output
    assert f"{url}/none: HTTP Error 404" in done.output
    assert "from one source alone" in done.output


def test_without_any_source_each_is_listed(mirror: tuple[str, Path], data: Path) -> None:
    before = data.read_text()
    url, root = mirror
    done = add(data, f"{url}/none", str(root))
    assert done.exit_code == 1
    assert "no source has it" in done.output
    assert f"  {root}: has no Miniconda3-{NEW}-Linux-aarch64.sh" in done.output
    assert "--from" in done.output
    assert data.read_text() == before


def test_a_directory_and_a_list_of_checksums_are_sources(
    mirror: tuple[str, Path], data: Path, tmp_path: Path
) -> None:
    sums = tmp_path / "SHA256SUMS"
    sums.write_text("".join(f"{SUMS[one]}  ./{file_name(NEW, one)}\n" for one in ARCHITECTURES))
    _, root = mirror
    done = add(data, str(sums), str(root / "good"))
    assert done.exit_code == 0, done.output
    assert "one source alone" not in done.output
    sums.write_text(sums.read_text().replace(SUMS["x86_64"], ZERO))
    assert add(data, str(sums)).exit_code == 1, "it is there with other checksums"
    assert read_installers(data.read_text())[NEW] == SUMS


def test_wrong_usage_ends_with_2(data: Path) -> None:
    done = add(data, version="latest")
    assert done.exit_code == 2
    assert "py310_26.7.1-1" in done.output
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0


def test_the_mirrors_are_asked_without_being_told() -> None:
    found = mirrors()
    assert found[0].startswith("https://mirrors.tuna.tsinghua.edu.cn/")
    assert found[-1] == "https://repo.anaconda.com/miniconda/"
    assert len(set(found)) == len(found) > 2


def test_an_entry_goes_between_its_neighbours() -> None:
    text = "vllm_data_versions:\n  miniconda:\n"
    for version, digit in (
        ("py312_26.1.0-0", "a"),
        ("py310_26.10.0-0", "b"),
        ("py310_26.9.0-1", "c"),
    ):
        files = {one: digit * 62 + f"{number:02}" for number, one in enumerate(ARCHITECTURES)}
        if version == "py312_26.1.0-0":
            lines = "".join(f"      {name}: {digest}\n" for name, digest in files.items())
            text += f"    {version}:\n{lines}"
        else:
            text = with_installers(text, version, files)
    assert list(read_installers(text)) == ["py310_26.9.0-1", "py310_26.10.0-0", "py312_26.1.0-0"]


@pytest.mark.parametrize(
    ("installers", "said"),
    [
        ({"py311_1.0.0-0": {}, "py310_1.0.0-0": {}}, "sort the versions"),
        ({"py310-1.0": {"aarch64": ZERO, "x86_64": ONE}}, "no version such as"),
        ({"py310_1.0.0-0": {"x86_64": ZERO}}, "give aarch64, x86_64, in this order"),
        ({"py310_1.0.0-0": {"x86_64": ZERO, "aarch64": ONE}}, "in this order"),
        ({"py310_1.0.0-0": {"aarch64": "A" * 64, "x86_64": ONE}}, "aarch64: not 64 hexadecimal"),
        ({"py310_1.0.0-0": {"aarch64": ONE, "x86_64": ONE}}, "stands at two installers"),
    ],
)
def test_what_is_wrong_with_the_data_is_said(
    installers: dict[str, dict[str, str]], said: str
) -> None:
    text = yaml.safe_dump({"vllm_data_versions": {"miniconda": installers}}, sort_keys=False)
    assert any(said in line for line in problems(text)), problems(text)
