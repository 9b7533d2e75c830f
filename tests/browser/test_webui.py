"""What people do with the web UI, in a real browser."""

# ruff: noqa: RUF001 - Chinese has punctuation marks of its own

from __future__ import annotations

import base64
import platform
import re
import time

import pytest

from filter_plugins.logins import hashed_logins
from vllm_ansible.paths import PROJECT

pytestmark = pytest.mark.browser
PASSWORD = "correct horse battery"  # noqa: S105 - nobody's
ANSWER = "The capital of France is Paris."
FRPC = {"x86_64": "amd64", "aarch64": "arm64"}
CHINESE = re.compile(r"[\u4e00-\u9fff]")
PHONE = {"viewport": {"width": 375, "height": 667}, "has_touch": True, "is_mobile": True}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


def eventually(condition, timeout_s=30.0):
    until = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    assert condition()


def test_the_second_question_is_told_the_first(serve, webui, visitor):
    engine, someone = serve(*webui.ports), visitor()
    someone.visit(webui.address)
    someone.ask("Name the capital of France.")
    someone.wait_for("tokens/s")
    someone.ask("How many people live there?")
    eventually(lambda: len(engine.engine.bodies) == 2)
    eventually(lambda: someone.said() == [ANSWER, ANSWER])
    assert engine.engine.bodies[1]["messages"] == [
        {"role": "user", "content": "Name the capital of France."},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": "How many people live there?"},
    ]
    someone.shot("two-turns")


def test_an_answer_appears_word_by_word(serve, webui, visitor):
    serve(*webui.ports, "--answer", "word " * 400, "--token-delay", "0.1")
    someone = visitor()
    someone.visit(webui.address)
    someone.ask("Say something long")
    lengths: set[int] = set()

    def grown():
        lengths.update(len(text) for text in someone.said())
        return len(lengths) > 3

    eventually(grown)


def test_a_stopped_answer_stays_and_ends_the_engines_work(serve, webui, visitor):
    engine, someone = (
        serve(*webui.ports, "--answer", "word " * 4000, "--token-delay", "0.05"),
        visitor(),
    )
    page = someone.visit(webui.address)
    someone.ask("Say something long")
    eventually(lambda: any("word word" in text for text in someone.said()))
    page.click("#ask .stop-button")
    someone.wait_for("Stopped.")
    eventually(lambda: engine.engine.left == 1)
    (kept,) = someone.said()
    assert 0 < kept.count("word") < 400
    someone.shot("stopped")
    # And it goes on from there.
    engine.engine.options.answer = "All right."
    someone.ask("Go on")
    someone.wait_for("All right.")
    assert engine.engine.bodies[1]["messages"][1]["content"].strip() == kept


def test_an_answer_can_be_stopped_before_its_first_word(serve, webui, visitor):
    engine, someone = serve(*webui.ports, "--answer", "a b", "--token-delay", "30"), visitor()
    page = someone.visit(webui.address)
    engine.engine.options.answer = "\u200b " * 2
    someone.ask("Anybody there?")
    eventually(lambda: len(engine.engine.bodies) == 1)
    page.click("#ask .stop-button")
    someone.wait_for("Stopped.", 5)
    page.wait_for_selector("#ask .submit-button")


def test_a_closed_page_ends_the_engines_work(serve, webui, visitor):
    engine, someone = (
        serve(*webui.ports, "--answer", "word " * 2000, "--token-delay", "0.05"),
        visitor(),
    )
    someone.visit(webui.address)
    someone.ask("Say something long")
    eventually(lambda: any("word" in text for text in someone.said()))
    someone.page.goto("about:blank")
    eventually(lambda: engine.engine.left == 1)


def test_a_server_that_is_down_is_told_and_the_conversation_goes_on_when_it_is_back(
    serve, webui, visitor
):
    engine, someone = serve(*webui.ports), visitor()
    someone.visit(webui.address)
    someone.ask("Name the capital of France.")
    someone.wait_for("tokens/s")
    engine.off()
    someone.ask("And of Spain?")
    someone.wait_for("Nobody answers at http://127.0.0.1")
    someone.shot("down")
    again = serve(engine.port)
    someone.ask("And of Italy?")
    eventually(lambda: someone.said()[-1] == ANSWER)
    said = [one["content"] for one in again.engine.bodies[0]["messages"]]
    assert said == ["Name the capital of France.", ANSWER, "And of Italy?"]


def test_a_page_that_is_opened_while_the_server_is_down_serves_when_it_is_back(
    serve, webui, visitor
):
    engine, someone = serve(*webui.ports), visitor()
    engine.off()
    someone.visit(webui.address)
    someone.wait_for("Nobody answers at http://127.0.0.1")
    serve(engine.port)
    someone.ask("Name the capital of France.")
    eventually(lambda: ANSWER in someone.said())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--refuse", "429"], "too much to do at the moment"),
        (["--refuse", "401"], "refuses this page's API key"),
        (["--max-model-len", "3"], "has become too long for this model"),
        (["--cut-after", "2"], "broke off in the middle of its answer"),
    ],
)
def test_the_servers_errors_are_sentences(serve, webui, visitor, words, says):
    someone = visitor()
    serve(*webui.ports, *words)
    someone.visit(webui.address)
    someone.ask("Name the capital of France.")
    someone.wait_for(says)
    someone.page.wait_for_selector("#ask .submit-button")


def test_a_model_that_is_no_longer_served_is_told(serve, webui, visitor):
    engine, someone = serve(*webui.ports, "--model", "old"), visitor()
    someone.visit(webui.address)
    eventually(lambda: someone.page.input_value("#model input") == "old")
    engine.engine.models[:] = ["new"]
    someone.ask("Hello?")
    someone.wait_for("no longer serves this model")


def test_what_is_set_is_what_is_asked(serve, run_webui, visitor):
    webui, someone = run_webui(engines=2), visitor()
    one, two = (serve(p, "--model", m) for p, m in zip(webui.ports, ("one", "two"), strict=True))
    page = someone.visit(webui.address)
    eventually(lambda: page.input_value("#model input") == "one")
    page.click("#model input")
    page.get_by_role("option", name="two").click()
    page.click("#settings > button")
    page.fill("#system textarea", "Be brief.")
    for name, value in (("temperature", "0.2"), ("top-p", "0.5"), ("max-tokens", "33")):
        page.fill(f"#{name} input[type=number]", value)
        page.press(f"#{name} input[type=number]", "Tab")
    someone.shot("settings")
    someone.ask("Hello?")
    eventually(lambda: len(two.engine.bodies) == 1)
    (body,) = two.engine.bodies
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.2, 0.5, 33)
    assert one.engine.bodies == []


def test_a_choice_outlives_a_list_that_comes_late(serve, run_webui, visitor):
    webui, someone = run_webui(engines=2), visitor()
    one, _ = (serve(p, "--model", m) for p, m in zip(webui.ports, ("one", "two"), strict=True))
    page = someone.visit(webui.address)
    eventually(lambda: page.input_value("#model input") == "one")
    one.engine.options.list_delay = 1
    page.click("#model input")
    page.get_by_role("option", name="two").click()
    page.wait_for_timeout(4000)
    assert page.input_value("#model input") == "two"


def test_a_new_conversation_knows_nothing_and_an_answer_can_be_had_again(serve, webui, visitor):
    engine, someone = serve(*webui.ports), visitor()
    page = someone.visit(webui.address)
    someone.ask("One?")
    someone.wait_for("tokens/s")
    page.click("#again")
    eventually(lambda: len(engine.engine.bodies) == 2)
    assert engine.engine.bodies[0]["messages"] == engine.engine.bodies[1]["messages"]
    eventually(lambda: someone.said() == [ANSWER])
    someone.wait_for("tokens/s")
    page.click("#new")
    eventually(lambda: someone.said() == [])
    someone.ask("Two?")
    eventually(lambda: len(engine.engine.bodies) == 3)
    assert engine.engine.bodies[2]["messages"] == [{"role": "user", "content": "Two?"}]


def test_it_fits_a_phone(serve, webui, visitor):
    someone = visitor(**PHONE)
    serve(*webui.ports)
    page = someone.visit(webui.address)
    someone.ask("Name the capital of France.")
    someone.wait_for("tokens/s")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 375
    for part in ("#model", "#language", "#chat", "#ask textarea", "#again", "#new"):
        box = page.locator(part).first.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 375
    # What is asked next can be written without scrolling.
    box = page.locator("#ask textarea").bounding_box()
    assert box["y"] + box["height"] <= 667
    someone.shot("phone")


def test_it_speaks_the_browsers_language_until_it_is_told_another(serve, webui, visitor):
    someone = visitor(locale="zh-CN")
    serve(*webui.ports)
    page = someone.visit(webui.address)

    def labels():
        found = page.locator("#ask textarea").get_attribute("placeholder") or ""
        for part in ("#settings > button", "#again", "#new", "#model"):
            found += page.locator(part).first.inner_text()
        return found

    assert len(CHINESE.findall(labels())) > 12
    someone.ask("法国的首都是哪里？")
    someone.wait_for("秒后开始回答")
    someone.shot("chinese")
    page.click("#language >> text=English")
    someone.wait_for("New conversation")
    assert not CHINESE.search(labels())
    # It is remembered.
    page.wait_for_function("localStorage.getItem('vllm-webui-language') !== null")
    someone.visit(webui.address)
    someone.wait_for("New conversation")


def test_errors_are_told_in_chinese(serve, webui, visitor):
    engine, someone = serve(*webui.ports), visitor(locale="zh-CN")
    someone.visit(webui.address)
    someone.wait_for("新对话")
    engine.off()
    someone.ask("有人吗？")
    someone.wait_for("无法连接 http://127.0.0.1")
    someone.shot("chinese-down")


def test_an_image_is_seen_by_a_model_that_sees(serve, run_webui, visitor, tmp_path):
    webui, someone = run_webui(vision=True), visitor()
    engine = serve(*webui.ports)
    (tmp_path / "dot.png").write_bytes(PNG)
    page = someone.visit(webui.address)
    page.set_input_files("#ask input[type=file]", tmp_path / "dot.png")
    page.wait_for_selector("#ask .thumbnail-item img, #ask img")
    someone.ask("What is it?")
    eventually(lambda: len(engine.engine.bodies) == 1)
    image, text = engine.engine.bodies[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    sent = image["image_url"]["url"].removeprefix("data:image/png;base64,")
    assert base64.b64decode(sent) == PNG
    someone.shot("image")


def test_a_text_model_is_offered_no_image(serve, webui, visitor):
    someone = visitor()
    serve(*webui.ports)
    page = someone.visit(webui.address)
    assert page.locator("#ask .upload-button").count() == 0


def test_an_address_in_an_answer_is_not_fetched(serve, webui, visitor):
    spy = "![x](http://192.0.2.1/what-was-said.png)"
    someone = visitor()
    serve(*webui.ports, "--answer", spy)
    someone.visit(webui.address)
    someone.ask("Hello?")
    someone.wait_for("tokens")
    # The browser itself has not let it out.
    eventually(lambda: someone.held_back == ["http://192.0.2.1/what-was-said.png"])


def test_whoever_has_an_account_gets_in_and_nobody_else(serve, run_webui, visitor):
    hashed, someone = hashed_logins({"ada": PASSWORD}), visitor()
    webui = run_webui(login=True, credentials={"logins": hashed})
    serve(*webui.ports)
    page = someone.visit(webui.address, ready=False)
    page.wait_for_selector("input[type=password]")
    assert page.locator("#ask").count() == 0
    answer = page.request.get(f"{webui.address}/config")
    assert answer.status == 401
    user = page.locator("input:not([type=password])").first
    user.fill("ada")
    page.fill("input[type=password]", "wrong password")
    page.get_by_role("button", name="Login").click()
    page.get_by_text("Incorrect", exact=False).first.wait_for()
    eventually(lambda: not user.input_value())
    user.fill("ada")
    page.fill("input[type=password]", PASSWORD)
    page.get_by_role("button", name="Login").click()
    page.wait_for_selector("#ask textarea")
    someone.ask("Name the capital of France.")
    eventually(lambda: ANSWER in someone.said())


def test_a_public_link_leads_to_the_door_by_the_program_at_hand(run_webui, tmp_path, monkeypatch):
    """By a stand-in for frpc: the real one and gradio's servers are out of reach here."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("GRADIO_SHARE_SERVER_ADDRESS", "127.0.0.1:9")
    link, door = "https://stand-in.example", "127.0.0.1:7860"
    said = run_webui(share=door).log
    eventually(lambda: "no public link: " in said.read_text())
    program = tmp_path / "gradio/frpc" / f"frpc_linux_{FRPC[platform.machine()]}_v0.3"
    program.parent.mkdir(parents=True)
    program.write_text(
        f'#!/bin/sh\necho "$@" >{tmp_path}/words\necho "start proxy success: {link}"\n'
    )
    program.chmod(0o755)
    said = run_webui(share=door).log
    eventually(lambda: f"public link: {link}" in said.read_text())
    assert " -l 7860 -i 127.0.0.1 " in (tmp_path / "words").read_text()


def test_two_visitors_do_not_meet(serve, webui, visitor):
    engine = serve(*webui.ports, "--answer", "word " * 60, "--token-delay", "0.05")
    one, two = visitor(), visitor()
    one.visit(webui.address)
    two.visit(webui.address)
    one.ask("One?")
    two.ask("Two?")
    eventually(lambda: len(engine.engine.bodies) == 2)
    eventually(lambda: one.said() and two.said())
    one.page.click("#ask .stop-button")
    one.wait_for("Stopped.")
    two.wait_for("tokens/s", 20)
    assert engine.engine.left == 1
    assert [len(body["messages"]) for body in engine.engine.bodies] == [1, 1]


def test_the_page_in_the_readme_is_there():
    for page in ("README.md", "README.zh.md"):
        assert "docs/webui.png" in (PROJECT / page).read_text("utf-8")
    assert (PROJECT / "docs/webui.png").stat().st_size > 10_000
