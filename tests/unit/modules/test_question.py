"""A host's instances are asked one question through their doors, with nothing but Python's own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.standins import engine
from tests.unit.modules.conftest import ModuleRunner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUESTION = "Name the capital of France."


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that asks the instances at some addresses, as a receipt names them."""

    def asked(*urls: str, kind: str = "text", **options: Any) -> list[dict[str, Any]]:
        instances = [
            {"name": f"n{number}", "url": url, "kind": kind, "served_names": ["tiny"]}
            for number, url in enumerate(urls)
        ]
        receipt = tmp_path / "receipt.json"
        receipt.write_text(json.dumps({"content": {"instances": instances}}))
        words = {"question": QUESTION, "question_timeout": 2, "key_file": str(tmp_path / "key")}
        answers = ModuleRunner("host_facts")(receipt_path=str(receipt), **{**words, **options})
        found: list[dict[str, Any]] = answers["answers"]
        return found

    return asked


def test_an_instance_answers(start_engine: Any, ask: Any) -> None:
    (answer,) = ask(start_engine())
    assert answer["answer"] == engine.ANSWER
    assert (answer["name"], answer["model"], answer["question"]) == ("n0", "tiny", QUESTION)
    assert answer["base_url"].endswith("/v1")


def test_nothing_is_asked_without_a_question(start_engine: Any, ask: Any) -> None:
    assert ask(start_engine(), question="") == []


def test_the_key_is_sent_and_never_told(start_engine: Any, ask: Any, tmp_path: Path) -> None:
    url = start_engine("--api-key=hunter2hunter2")
    (refused,) = ask(url)
    assert "status 401" in refused["error"]
    (tmp_path / "key").write_text("hunter2hunter2\n")
    (answer,) = ask(url)
    assert answer["answer"] == engine.ANSWER
    (tmp_path / "key").write_text("wrong-wrong-wrong")
    assert "wrong-wrong" not in json.dumps(ask(url))


def test_vectors_are_asked_of_an_embedding_model(start_engine: Any, ask: Any) -> None:
    assert ask(start_engine(), kind="embedding")[0]["answer"] == "a vector of 64 numbers"


@pytest.mark.parametrize("flaw", ["nan", "nought"])
def test_a_vector_that_says_nothing_is_no_answer(start_engine: Any, ask: Any, flaw: str) -> None:
    assert (
        "answered nothing" in ask(start_engine(f"--vectors={flaw}"), kind="embedding")[0]["error"]
    )


def test_each_instance_has_its_own_verdict(start_engine: Any, ask: Any, tmp_path: Path) -> None:
    (tmp_path / "hang").touch()
    urls = [
        start_engine(),
        start_engine("--refuse=500"),
        start_engine("--answer="),
        start_engine(f"--hang-file={tmp_path / 'hang'}"),
        "http://127.0.0.1:1",
    ]
    good, refused, empty, stuck, gone = ask(*urls)
    assert good["answer"] == engine.ANSWER
    assert "status 500" in refused["error"]
    assert "answered nothing" in empty["error"]
    assert "timed out" in stuck["error"]
    assert "refused" in gone["error"]
    # The engine's thread ends with the file.
    (tmp_path / "hang").unlink()


def test_a_receipt_that_names_no_door_is_not_asked(tmp_path: Path) -> None:
    receipt = tmp_path / "receipt.json"
    receipt.write_text(json.dumps({"content": {"instances": [{"name": "old", "port": 8000}]}}))
    assert ModuleRunner("host_facts")(receipt_path=str(receipt), question="?")["answers"] == []
