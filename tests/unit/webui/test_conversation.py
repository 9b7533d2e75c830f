"""What a model is told of the conversation on the page."""

import base64

import pytest
from vllm_webui.conversation import asked, is_notice, notice, to_api, without_last_answer
from vllm_webui.errors import ChatError

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


def user(text):
    return {"role": "user", "content": text}


def model(text):
    return {"role": "assistant", "content": text}


def test_what_was_said_before_is_told(tmp_path):
    said = [user("My name is Ada."), model("Hello Ada."), user("What is my name?")]
    assert to_api(said, "", tmp_path) == said


def test_the_system_prompt_comes_first_and_an_empty_one_not_at_all(tmp_path):
    assert to_api([user("Hi")], " Be brief. ", tmp_path)[0] == {
        "role": "system",
        "content": "Be brief.",
    }
    assert to_api([user("Hi")], "  ", tmp_path) == [user("Hi")]


def test_a_question_that_got_an_error_is_not_told(tmp_path):
    said = [user("one"), notice("it is down"), user("two")]
    assert to_api(said, "", tmp_path) == [user("two")]


def test_an_answer_that_broke_off_is_told(tmp_path):
    said = [user("one"), model("half an"), notice("broken off"), user("two")]
    assert to_api(said, "", tmp_path) == [user("one"), model("half an"), user("two")]


def test_the_page_s_own_form_of_a_text_is_read(tmp_path):
    said = [{"role": "user", "content": [{"type": "text", "text": "Hi"}], "metadata": None}]
    assert to_api(said, "", tmp_path) == [user("Hi")]


@pytest.mark.parametrize("form", ["path", "file"])
def test_an_image_goes_with_its_question(tmp_path, form):
    file = tmp_path / "a.png"
    file.write_bytes(PNG)
    content = {"path": str(file)} if form == "path" else [{"type": "file", "file": {"path": file}}]
    said = [{"role": "user", "content": content}, user("What is it?")]
    (message,) = to_api(said, "", tmp_path)
    image, text = message["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": "What is it?"}


def test_no_file_but_an_uploaded_image_is_sent(tmp_path):
    outside, uploads = tmp_path / "secret.png", tmp_path / "uploads"
    uploads.mkdir()
    outside.write_bytes(PNG)
    (uploads / "words.txt").write_text("no image")
    for path in (outside, uploads / "../secret.png", uploads / "words.txt", uploads / "gone.png"):
        with pytest.raises(ChatError) as found:
            to_api([{"role": "user", "content": {"path": str(path)}}], "", uploads)
        assert found.value.kind == "image"


def test_a_question_is_its_images_and_then_its_words():
    assert asked("What?", ["/u/a.png"]) == [
        {"role": "user", "content": {"path": "/u/a.png"}},
        user("What?"),
    ]
    assert asked("", []) == []


def test_to_ask_again_takes_the_answer_away():
    assert without_last_answer([user("one"), model("1")]) == [user("one")]
    assert without_last_answer([user("one"), model("1"), notice("broken")]) == [user("one")]
    assert without_last_answer([]) == []
    assert is_notice(notice("x"))
    assert not is_notice(model("x"))
