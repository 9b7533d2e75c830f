"""The chat's client and conversation, against a stand-in that answers as vLLM does."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.standins.engine import ANSWER
from vllm_ansible.chat.client import Answer, Client, Sampling
from vllm_ansible.chat.commands import Commands, QuitError, speed
from vllm_ansible.chat.errors import ChatError, message_of
from vllm_ansible.chat.session import Session
from vllm_ansible.chat.terminal import printable


@pytest.fixture
def served(serve):
    return serve("--model=tiny", "--token-delay=0")


@pytest.fixture
def session(served):
    return started(served)


def started(served):
    client = Client(served.url, timeout=60)
    return Session(client, client.models()[0])


def ask(session, question):
    pieces: list[str] = []
    notices: list[str] = []
    turn = session.ask(question, pieces.append, notices.append)
    assert "".join(pieces) == turn.answer.text
    return turn, notices


def roles(body):
    return [one["role"] for one in body["messages"]]


def test_an_answer_comes_in_pieces_and_is_measured(serve):
    session = started(serve("--token-delay=0.1"))
    turn, _ = ask(session, "Capital of France?")
    assert turn.answer.text == ANSWER
    assert (turn.answer.prompt_tokens, turn.answer.tokens) == (3, 6)
    assert turn.answer.finish_reason == "stop"
    # Five more tokens, of which the server sends one each 0.1 s.
    assert 0 <= turn.answer.first_token_seconds < turn.answer.seconds
    assert turn.answer.seconds >= 0.5
    assert "6 tokens, " in speed(turn)


def test_the_rate_is_of_the_tokens_after_the_first():
    answer = Answer("tiny", tokens=11, first_token_seconds=3.0, seconds=5.0)
    assert answer.tokens_per_second == 5.0
    assert Answer("tiny", tokens=1, first_token_seconds=3.0, seconds=5.0).tokens_per_second is None


def test_the_servers_own_count_of_tokens_counts(serve):
    # A piece may hold several tokens: here two lines, which the stand-in counts as two.
    turn, _ = ask(started(serve("--answer=one\ntwo three")), "one")
    assert turn.answer.tokens == 3


def test_no_character_of_an_answer_is_lost(serve):
    # U+2028 ends a line for Python, and does not for a stream of events.
    text = "天空\u2028是\x85蓝色的 \U0001f600"
    turn, _ = ask(started(serve(f"--answer={text}")), "为什么")
    assert turn.answer.text == text


def test_the_model_sees_what_was_said_before(session, served):
    session.system = "Be brief."
    ask(session, "one")
    ask(session, "two")
    second = served.engine.bodies[-1]
    assert roles(second) == ["system", "user", "assistant", "user"]
    assert second["messages"][2]["content"] == ANSWER
    session.reset()
    ask(session, "three")
    assert roles(served.engine.bodies[-1]) == ["system", "user"]


def test_sampling_parameters_go_along_and_others_are_left_to_the_server(session, served):
    session.sampling = Sampling.of(temperature=0.3, repetition_penalty=1.05)
    ask(session, "one")
    body = served.engine.bodies[-1]
    assert (body["temperature"], body["repetition_penalty"]) == (0.3, 1.05)
    assert "top_p" not in body
    with pytest.raises(ChatError, match=r"temperature 3: Input should be less than or equal to 2"):
        Sampling.of(temperature=3)


def test_the_oldest_turns_are_left_out_when_the_context_is_full(serve):
    served = serve("--max-model-len=24", "--token-delay=0")
    session = started(served)
    for question in ("one", "two", "three"):
        _, notices = ask(session, question)
        assert not notices
    _, notices = ask(session, "four four four four four")
    assert notices == ["The model's context is full: the oldest turn was left out."]
    assert served.engine.bodies[-1]["messages"][0]["content"] == "two"
    # Nothing is forgotten: it can still be saved.
    assert session.messages()[0]["content"] == "one"


def test_a_question_too_long_by_itself_is_an_error_and_costs_no_history(serve):
    session = started(serve("--max-model-len=20", "--token-delay=0"))
    ask(session, "one")
    with pytest.raises(ChatError, match="too long for the model"):
        ask(session, "word " * 30)
    assert (session.left_out, len(session.turns)) == (0, 1)


def test_ctrl_c_stops_the_engine_and_keeps_the_chat(serve):
    served = serve("--token-delay=0.1", "--answer=" + "word " * 50)
    session = started(served)
    seen: list[str] = []

    def stop(piece):
        seen.append(piece)
        if len(seen) == 3:
            raise KeyboardInterrupt

    turn = session.ask("one", stop, seen.append)
    assert turn.stopped
    assert speed(turn).startswith("stopped, 3 tokens")
    assert session.turns == [turn]
    deadline = time.monotonic() + 5
    while not served.engine.left and time.monotonic() < deadline:
        time.sleep(0.05)
    assert served.engine.left == 1


@pytest.mark.parametrize(
    ("word", "text"),
    [("--cut-after=2", "broke off in the middle"), ("--error-after=2", "failed.*engine died")],
)
def test_a_stream_that_breaks_off_is_told_and_not_kept(serve, word, text):
    session = started(serve(word))
    with pytest.raises(ChatError, match=text):
        session.ask("one", lambda _: None, lambda _: None)
    assert not session.turns


def test_a_stream_that_ends_early_without_a_sign_is_told_too():
    class Early(BaseHTTPRequestHandler):
        # HTTP/1.0: the end of the connection is the end of the answer, whole or not.
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'data: {"choices": [{"delta": {"content": "The capi"}}]}\n\n')

    with HTTPServer(("127.0.0.1", 0), Early) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        session = Session(Client(f"http://127.0.0.1:{server.server_port}"), "tiny")
        with pytest.raises(ChatError, match="broke off in the middle"):
            session.ask("one", lambda _: None, lambda _: None)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--api-key=good"], r"refuses the key \(from a test\).*api_key.*--api-key-file"),
        (["--starting=60"], r"starting or has stopped: try again in 10 s"),
    ],
)
def test_a_refusal_is_a_sentence_with_a_way_out(serve, words, text):
    served = serve(*words)
    with pytest.raises(ChatError, match=text) as caught:
        Client(served.url, "bad-key-bad-key", "from a test").models()
    assert "bad-key-bad-key" not in str(caught.value)


def test_what_the_server_says_of_a_wrong_request_is_passed_on(session):
    session.model = "gone"
    with pytest.raises(ChatError, match="The model `gone` does not exist"):
        ask(session, "one")
    client, messages = session.client, [{"role": "user", "content": "one"}]
    wrong = Sampling.model_construct(temperature=-1.0)
    with pytest.raises(ChatError, match="does not take the request: temperature must be non-neg"):
        list(client.stream(Answer("tiny"), messages, wrong))


def test_a_server_that_has_no_chat_says_who_else_to_ask():
    class Vectors(BaseHTTPRequestHandler):
        # As the door answers for a model that makes vectors.
        def do_POST(self):
            self.send_response(404)
            self.end_headers()
            self.wfile.write(b'{"error": {"message": "This route is not served here"}}')

    with HTTPServer(("127.0.0.1", 0), Vectors) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        session = Session(Client(f"http://127.0.0.1:{server.server_port}"), "bge")
        with pytest.raises(ChatError, match=r"has no chat.*openai_embeddings\.py"):
            ask(session, "one")


def test_a_dead_engine_is_told(serve):
    session = started(serve("--fail-after=1"))
    with pytest.raises(ChatError, match=r"failed with status 500: the engine is dead"):
        ask(session, "one")


def test_nobody_there_and_somebody_else_there_are_told():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ChatError, match=rf"Nobody answers at http://127.0.0.1:{port}/v1"):
        Client(f"http://127.0.0.1:{port}").models()

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(ChatError, match="no OpenAI-compatible API"):
            Client(f"http://127.0.0.1:{server.server_port}").models()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error": {"message": "new"}}', "new"),
        (b'{"object": "error", "message": "old", "code": 400}', "old"),
        (b'{"detail": "fastapi"}', "fastapi"),
        (b"<html><title>502 Bad Gateway</title></html>", "502 Bad Gateway"),
        (b"", "no reason given"),
    ],
)
def test_errors_are_read_in_the_forms_of_all_versions(body, text):
    assert message_of(body) == text


def test_a_model_cannot_steer_the_terminal():
    assert printable("a\x1b[2Jb\x07\n中\t\x9b") == "a[2Jb\n中\t"


def test_commands_say_and_set(serve, tmp_path):
    session = started(serve("--model=tiny", "--model=other", "--token-delay=0"))
    run = Commands(session).run
    shown = run("/help").splitlines()
    assert [line.split()[0].rstrip(":") for line in shown[:-1]] == Commands(session).names()
    assert run("/model") == "* 1 tiny\n  2 other"
    assert run("/model 2") == "  1 tiny\n* 2 other"
    assert session.model == "other"
    with pytest.raises(ChatError, match="nine is not served; served are tiny, other"):
        run("/model nine")
    assert run("/system 说中文") == "system prompt: 说中文"
    assert "temperature 0.2" in run("/set temperature 0.2")
    assert "temperature left to the server" in run("/set temperature")
    with pytest.raises(ChatError, match="no parameter heat; there are temperature, "):
        run("/set heat 1")
    ask(session, "你好")
    assert run("/stats").startswith("1 turns, 2 tokens asked, 6 answered")
    file = tmp_path / "chat.md"
    run(f"/save {file}")
    assert f"**user**\n\n你好\n\n**assistant**\n\n{ANSWER}\n" in file.read_text("utf-8")
    with pytest.raises(ChatError, match="is there already"):
        run(f"/save {file}")
    assert run("/system -") == "system prompt: none"
    run("/reset")
    assert session.messages() == []
    with pytest.raises(ChatError, match="no command /what"):
        run("/what")
    with pytest.raises(QuitError):
        run("/quit")
