"""The stand-in releases: the good ones serve, each broken one breaks in its own way."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest

from tests.origin import standin_release
from vllm_ansible.data import load_data
from vllm_ansible.paths import DATA, PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCKS = PROJECT / "tests" / "standin" / "locks"
SERVE = "from vllm.entrypoints.cli.main import main; main()"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    staging = tmp_path_factory.mktemp("staging")
    standin_release.make(staging)
    return staging / standin_release.SIMPLE / "vllm"


class Serving:
    """A release that serves on a free port, its working directory, and how it is asked."""

    def __init__(self, wheel: Path, folder: Path, **environment: str) -> None:
        config = folder / "one.yaml"
        config.write_text("host: 127.0.0.1\nport: 0\nmodel: /srv/x\nserved-model-name: [tiny]\n")
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", "--config", str(config)],
            # A wheel of pure Python is imported as it is.
            env={"PYTHONPATH": str(wheel), **environment},
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def port(self) -> int:
        """The port, as it says itself once it listens."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on"), self.process.communicate()
        return int(line.rstrip(")\n").rpartition(" ")[2])

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Status and content of an answer."""
        if not hasattr(self, "at"):
            self.at = self.port()
        connection = HTTPConnection("127.0.0.1", self.at, timeout=60)
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture
def serve(made: Path, tmp_path: Path) -> Iterator[Any]:
    started = []

    def start(version: str, **environment: str) -> Serving:
        wheel = made / f"vllm-{version}+cpu-py3-none-any.whl"
        started.append(Serving(wheel, tmp_path, **environment))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


QUESTION = {"model": "tiny", "prompt": "Name the capital of France."}


@pytest.mark.parametrize("version", standin_release.GOOD)
def test_a_good_release_is_healthy_and_answers(serve: Any, version: str) -> None:
    one = serve(version)
    assert one.ask("/health")[0] == 200
    status, answer = one.ask("/v1/completions", QUESTION)
    assert status == 200
    assert "Paris" in answer["choices"][0]["text"]


def test_a_release_that_cannot_be_imported(serve: Any) -> None:
    _, errors = serve("0.31.91").process.communicate(timeout=60)
    assert "ImportError: this release is broken on purpose" in errors


def test_a_release_that_refuses_its_configuration(serve: Any) -> None:
    process = serve("0.31.92").process
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, "unrecognized arguments" in errors) == (2, True)


def test_a_release_that_dies_before_it_listens(serve: Any) -> None:
    process = serve("0.31.93").process
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == 1


def test_a_release_that_is_never_healthy(serve: Any) -> None:
    assert serve("0.31.94").ask("/health")[0] == 503


def test_a_release_that_is_healthy_and_refuses_every_question(serve: Any) -> None:
    one = serve("0.31.95")
    assert one.ask("/health")[0] == 200
    assert one.ask("/v1/completions", QUESTION)[0] == 500


def test_a_release_that_is_healthy_and_answers_nothing(serve: Any) -> None:
    one = serve("0.31.96")
    assert one.ask("/health")[0] == 200
    assert one.ask("/v1/completions", QUESTION)[1]["choices"][0]["text"] == ""


def test_it_is_ill_once_a_file_is_there_until_it_is_started_again(serve: Any) -> None:
    one = serve("0.31.0")
    assert one.ask("/health")[0] == 200
    (one.folder / "ill").touch()
    assert one.ask("/health")[0] == 503
    assert serve("0.31.0").ask("/health")[0] == 200


def test_it_answers_no_question_while_a_file_is_there(serve: Any) -> None:
    one = serve("0.31.0")
    hang = one.folder / "hang"
    answers: list[Any] = []
    one.ask("/health")
    hang.touch()
    asking = threading.Thread(target=lambda: answers.append(one.ask("/v1/completions", QUESTION)))
    asking.start()
    assert one.ask("/health")[0] == 200
    asking.join(0.5)
    assert asking.is_alive()
    hang.unlink()
    asking.join(10)
    assert answers[0][0] == 200


@pytest.mark.parametrize("refused", [False, True])
def test_its_configuration_is_proved_as_vllms_is(made: Path, tmp_path: Path, refused: bool) -> None:
    said = "speculative-config: {refuse: true}\n" if refused else ""
    (tmp_path / "one.yaml").write_text(f"port: 1\nmodel: /srv/x\n{said}")
    code = (
        "from vllm.entrypoints.cli import main, serve\n"
        "from vllm.engine.arg_utils import AsyncEngineArgs\n"
        "from vllm.usage.usage_lib import UsageContext\n"
        "kept = []\n"
        "serve.ServeSubcommand.cmd = staticmethod(kept.append)\n"
        "main.main()\n"
        "made = AsyncEngineArgs.from_cli_args(kept[0])\n"
        "made.create_engine_config(UsageContext.OPENAI_API_SERVER)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--config", str(tmp_path / "one.yaml")],
        env={"PYTHONPATH": str(made / "vllm-0.31.0+cpu-py3-none-any.whl")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode != 0) == refused, done.stderr
    assert ("ValueError: speculative-config" in done.stderr) == refused


def test_it_does_what_its_environment_and_its_file_say(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "standin-engine").write_text("--fail-after 2 --start-delay 1\n")
    began = time.monotonic()
    one = serve("0.31.0", STANDIN_ENGINE="--answer 'It is Rome.' --start-delay 0")
    assert "Rome" in one.ask("/v1/completions", QUESTION)[1]["choices"][0]["text"]
    assert one.ask("/v1/completions", QUESTION)[0] == 500
    assert one.ask("/health")[0] == 503
    # The file is read last.
    assert time.monotonic() - began > 1


def test_every_release_has_a_lock_and_is_known() -> None:
    data = load_data(DATA, LOCKS)
    releases = {*standin_release.GOOD, *standin_release.BROKEN}
    assert {version for version, *_ in data.locks} == releases
    for version in releases:
        assert "cpu" in data.versions.vllm[version].devices
        lock = data.locks[version, "cpu", "3.10", "cpu-index"]
        others = [pin for pin in lock.pins if not pin.startswith("vllm==")]
        first = data.locks["0.31.0", "cpu", "3.10", "cpu-index"]
        assert f"vllm=={version}+cpu" in lock.pins
        assert others == [pin for pin in first.pins if not pin.startswith("vllm==")]


def test_a_folder_of_locks_does_not_change_what_is_known_of_a_version(tmp_path: Path) -> None:
    (tmp_path / "versions.yml").write_text(
        'vllm:\n  0.31.0: {python: ">=3.13", torch: "1", devices: [gpu]}\n'
        '  9.0.0: {python: ">=3.13", torch: "1", devices: [gpu]}\n'
    )
    known = load_data(DATA, tmp_path).versions.vllm
    assert known["0.31.0"] == load_data(DATA, LOCKS).versions.vllm["0.31.0"]
    assert known["9.0.0"].devices == ["gpu"]
