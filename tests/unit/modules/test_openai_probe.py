"""A service is proved by asking it; the engine is a stand-in here, the client the real one."""

from __future__ import annotations

import base64
import json
import struct
import threading
import zlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.standins import engine
from tests.unit.modules.conftest import load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.modules.conftest import ModuleRunner


@pytest.fixture
def start(start_engine: Callable[..., str]) -> Callable[..., str]:
    """Return a function that starts an engine and returns its base URL."""
    return lambda *words: f"{start_engine(*words)}/v1"


def test_every_question_is_asked_and_measured(module: ModuleRunner, start: Any) -> None:
    result = module(base_url=start("--token-delay=0.05"), model="tiny")
    assert result["answer"] == engine.ANSWER
    names = ["health", "models", "completion", "chat", "sampled", "stream"]
    assert [check["name"] for check in result["checks"]] == names
    assert all(check["ok"] for check in result["checks"])
    assert result["tokens_per_second"] > 0
    assert result["time_to_first_token"] > 0
    assert not result["changed"]


def test_the_rate_counts_the_tokens_after_the_first_and_their_time(
    module: ModuleRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = load(module.path, monkeypatch)

    def told(text: str, tokens: int | None = None) -> SimpleNamespace:
        delta = SimpleNamespace(content=text, reasoning=None, reasoning_content=None)
        usage = None if tokens is None else SimpleNamespace(completion_tokens=tokens)
        return SimpleNamespace(choices=[SimpleNamespace(delta=delta)], usage=usage)

    def streamed(*chunks: SimpleNamespace) -> Any:
        # Asked at 100 s; the words come 3 s later and then every half second.
        clock = iter([100.0, 103.0, 103.5, 104.0])
        create = SimpleNamespace(create=lambda **_: iter(chunks))
        asker = SimpleNamespace(
            client=SimpleNamespace(chat=SimpleNamespace(completions=create)), request=dict
        )
        with monkeypatch.context() as patch:
            patch.setattr(probe.time, "monotonic", lambda: next(clock))
            measured = probe.Probe.stream(asker)
        return measured["tokens_per_second"], measured["time_to_first_token"]

    silent, words = told(""), [told("The"), told(" sky"), told(" is")]
    assert streamed(silent, *words) == (2.0, 3.0)
    assert streamed(*words[:2], told(" is", tokens=11)) == (10.0, 3.0)
    assert streamed(told("The")) == (None, 3.0)


def test_the_key_opens_and_is_never_told(module: ModuleRunner, start: Any, tmp_path: Path) -> None:
    key = tmp_path / "api_key"
    key.write_text("hunter2-hunter2\n")
    url = start("--api-key=hunter2-hunter2")
    result = module(base_url=url, model="tiny", api_key_file=str(key))
    assert "hunter2-hunter2" not in json.dumps(result)
    refused = module(base_url=url, model="tiny", fails=True)
    assert "check 'models'" in refused["msg"]
    assert "status 401" in refused["msg"]
    key.write_text("")
    assert (
        "is empty" in module(base_url=url, model="tiny", api_key_file=str(key), fails=True)["msg"]
    )
    key.unlink()
    assert (
        "cannot be read"
        in (module(base_url=url, model="tiny", api_key_file=str(key), fails=True)["msg"])
    )


def test_another_model_than_expected_is_named(module: ModuleRunner, start: Any) -> None:
    message = module(base_url=start(), model="other", fails=True)["msg"]
    assert "the service has ['tiny'], and 'other' was expected" in message


def test_a_dead_engine_fails_the_first_check(module: ModuleRunner, start: Any) -> None:
    result = module(base_url=start("--fail-after=0"), model="tiny", fails=True)
    assert "check 'health'" in result["msg"]
    assert "503" in result["msg"]
    assert [check["ok"] for check in result["checks"]] == [False]


def test_an_engine_that_dies_on_the_way_fails_where_it_died(
    module: ModuleRunner, start: Any
) -> None:
    result = module(base_url=start("--fail-after=2"), model="tiny", fails=True)
    assert "check 'chat'" in result["msg"]
    assert "the engine is dead" in result["msg"]


def test_silence_is_no_answer(module: ModuleRunner, start: Any) -> None:
    message = module(base_url=start("--answer= "), model="tiny", fails=True)["msg"]
    assert "the completion is empty" in message


def test_a_service_that_is_not_there_is_named(module: ModuleRunner) -> None:
    message = module(base_url="http://127.0.0.1:1/v1", model="tiny", fails=True)["msg"]
    assert "http://127.0.0.1:1/v1: check 'health'" in message
    assert "refused" in message


def test_a_proxy_of_the_environment_is_not_asked(module: ModuleRunner, start: Any) -> None:
    proxy = {"http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1", "no_proxy": ""}
    assert module(base_url=start(), model="tiny", env=proxy)["answer"]


def test_a_slow_answer_is_given_up(module: ModuleRunner, start: Any) -> None:
    result = module(base_url=start("--token-delay=5"), model="tiny", timeout=1, fails=True)
    assert "check 'stream'" in result["msg"]
    assert "timed out" in result["msg"].lower()


def test_a_model_that_sees_is_shown_an_image(module: ModuleRunner, start: Any) -> None:
    result = module(base_url=start(), model="tiny", kind="vision")
    names = ["health", "models", "completion", "chat", "sampled", "stream", "image"]
    assert [check["name"] for check in result["checks"]] == names


def test_a_server_that_drops_the_image_is_found_out(module: ModuleRunner, start: Any) -> None:
    result = module(base_url=start("--blind"), model="tiny", kind="vision", fails=True)
    assert "check 'image'" in result["msg"]
    assert "the model was not given the image" in result["msg"]


def test_the_image_is_a_png_that_can_be_read(
    module: ModuleRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = base64.b64decode(load(module.path, monkeypatch).picture())
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    length = struct.unpack(">I", data[33:37])[0]
    pixels = zlib.decompress(data[41 : 41 + length])
    assert len(pixels) == height * (1 + 3 * width)
    # The first pixel has no red and no green; the last has all of both.
    assert (pixels[1:4], pixels[-3:]) == (bytes([0, 0, 64]), bytes([255, 255, 64]))


def test_an_embedding_model_is_asked_for_vectors_alone(module: ModuleRunner, start: Any) -> None:
    result = module(base_url=start(), model="tiny", kind="embedding")
    assert [check["name"] for check in result["checks"]] == ["health", "models", "vectors"]
    assert (result["dimensions"], result["answer"]) == (64, "a vector of 64 numbers")
    assert result["tokens_per_second"] is None


FLAWS = {
    "nan": "not finite",
    "nought": "a vector of 2 numbers says nothing",
    "alike": "two texts have the same vector: 1.0000",
    "fickle": "another vector when asked again",
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_vectors_that_are_none_are_found_out(module: ModuleRunner, start: Any, flaw: str) -> None:
    url = start(f"--vectors={flaw}")
    result = module(base_url=url, model="tiny", kind="embedding", fails=True)
    assert "check 'vectors'" in result["msg"]
    assert FLAWS[flaw] in result["msg"]


def test_an_engine_is_asked_at_its_socket_and_briefly(module: ModuleRunner, tmp_path: Path) -> None:
    path = str(tmp_path / "api.sock")
    server: Any = engine.make_server(engine.parse([f"--uds={path}", "--model=tiny"]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        result = module(socket=path, model="tiny", brief=True)
    finally:
        server.shutdown()
        server.server_close()
    assert (result["answer"], result["base_url"]) == (engine.ANSWER, path)
    assert [check["name"] for check in result["checks"]] == ["health", "models", "chat"]
    assert path in module(socket=path, model="tiny", fails=True)["msg"]
