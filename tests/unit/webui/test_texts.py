"""The page's words: all of them in each language, in the language of whoever reads them."""

import re
from typing import get_args

import pytest
from vllm_webui.errors import ChatError, Kind
from vllm_webui.texts import LANGUAGES, TEXTS, preferred, sentence

from vllm_ansible.paths import WEBUI

CODE = "".join(
    file.read_text("utf-8")
    for file in (WEBUI / "vllm_webui").glob("*.py")
    if file.name != "texts.py"
)


def test_each_language_has_every_text_with_the_same_values():
    assert set(TEXTS) == set(LANGUAGES.values())
    values = [
        {name: sorted(re.findall(r"{(\w+)}", text)) for name, text in texts.items()}
        for texts in TEXTS.values()
    ]
    assert all(one == values[0] for one in values)


def test_every_text_is_used():
    used = set(re.findall(r'"(\w+)"|\'(\w+)\'', CODE))
    names = {name for pair in used for name in pair}
    errors = {f"error_{kind}" for kind in get_args(Kind)}
    assert set(TEXTS["en"]) - names == errors


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_error_is_a_sentence(language, kind):
    said = sentence(language, ChatError(kind, "the detail", "http://a:8000/v1"))
    assert said.endswith((".", "。", ")", "）", "the detail"))  # noqa: RUF001 - Chinese
    assert "{" not in said
    assert "/v1" not in said
    assert (re.search(r"[\u4e00-\u9fff]", said) is not None) == (language == "zh")


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9,zh;q=0.8", "en"),
        ("de-DE,de;q=0.9", "en"),
        ("de,zh;q=0.5,en;q=0.2", "zh"),
        ("zh-TW", "zh"),
        ("", "en"),
        ("zh;q=nonsense", "zh"),
    ],
)
def test_the_page_speaks_the_browsers_language(header, language):
    assert preferred(header) == language
