"""The page's client: which models there are, answers as they come, and errors by their kind."""

import asyncio
import itertools
import time

import pytest
from vllm_webui.api import Api
from vllm_webui.errors import ChatError, refused
from vllm_webui.settings import Endpoint

ASKED = [{"role": "user", "content": "Name the capital of France."}]
KEY = "sk-a-key-of-the-stand-in"


def endpoint(served, name="one", **words):
    return Endpoint(name=name, url=served.url, **words)


def models(*endpoints, keys=None):
    return asyncio.run(Api(endpoints, keys or {}).models())


async def answers(api, messages=ASKED, **sampling):
    found = await api.models()
    return [(grown.text, grown) async for grown in api.stream(found.models[0], messages, sampling)]


def kind_of(served, messages=ASKED, *, keys=None, **words):
    """Ask, and return the kind of the error that this ends with."""

    async def ask():
        api = Api([endpoint(served, **words)], keys or {})
        model = (await Api([endpoint(served, **words)], {"k": KEY}).models()).models[0]
        async for _ in api.stream(model, messages, {}):
            pass

    with pytest.raises(ChatError) as found:
        asyncio.run(ask())
    return found.value.kind


def test_the_models_of_all_endpoints_can_be_chosen(serve):
    one, two = serve("--model", "a"), serve("--model", "b", "--max-model-len", "512")
    found = models(endpoint(one), endpoint(two, "two"))
    assert [(m.label, m.context) for m in found.models] == [("a", 2048), ("b", 512)]
    assert found.errors == []


def test_the_same_model_at_two_endpoints_is_told_apart(serve):
    one, two = serve("--model", "a"), serve("--model", "a")
    found = models(endpoint(one), endpoint(two, "two"))
    assert [m.label for m in found.models] == ["a (one)", "a (two)"]
    assert [m.name for m in found.models] == ["a", "a"]


def test_one_dead_endpoint_hides_no_other(serve):
    alive = serve("--model", "a")
    dead = Endpoint(name="dead", url="http://127.0.0.1:9/v1")
    found = models(dead, endpoint(alive))
    assert [m.label for m in found.models] == ["a"]
    assert [(e.kind, e.where) for e in found.errors] == [("down", dead.url)]


def test_an_answer_grows_to_its_end_and_its_tokens_are_the_servers_count(serve):
    grown = asyncio.run(answers(Api([endpoint(serve("--answer", "one two three"))], {})))
    texts = [text for text, _ in grown]
    assert texts[0] == "one"
    assert texts[-1] == "one two three"
    assert all(later.startswith(before) for before, later in itertools.pairwise(texts))
    last = grown[-1][1]
    assert (last.tokens, last.finish) == (3, "stop")
    assert last.rate
    assert last.first_s is not None


def test_what_is_asked_is_the_conversation_and_the_sampling(serve):
    served = serve()
    said = [*ASKED, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "Why?"}]
    asyncio.run(answers(Api([endpoint(served)], {}), said, temperature=0.5, max_tokens=7))
    body = served.engine.bodies[-1]
    assert body["messages"] == said
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0.5, 7, True)


def test_the_key_opens_the_server(serve):
    served = serve("--api-key", KEY)
    api = Api([endpoint(served, credential="k")], {"k": KEY})
    assert asyncio.run(answers(api))[-1][0]


def test_an_answer_that_is_left_ends_the_servers_work(serve):
    served = serve("--answer", "word " * 3000, "--token-delay", "0.02")

    async def leave():
        api = Api([endpoint(served)], {})
        model = (await api.models()).models[0]
        pieces = api.stream(model, ASKED, {})
        await pieces.__anext__()
        await pieces.aclose()

    asyncio.run(leave())
    until = time.monotonic() + 30
    while not served.engine.left and time.monotonic() < until:
        time.sleep(0.02)
    assert served.engine.left == 1


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["--api-key", KEY], "key"),
        (["--refuse", "429"], "busy"),
        (["--refuse", "422"], "refused"),
        (["--refuse", "503"], "starting"),
        (["--refuse", "500"], "failed"),
        (["--max-model-len", "3"], "too_long"),
        (["--cut-after", "2"], "broken"),
        (["--error-after", "2"], "failed"),
    ],
)
def test_a_servers_refusal_is_told_by_its_kind(serve, words, kind):
    assert kind_of(serve(*words), credential="k") == kind


def test_a_model_that_is_gone_is_told(serve):
    served = serve()

    async def ask():
        api = Api([endpoint(served)], {})
        model = (await api.models()).models[0]
        served.engine.models[:] = ["another"]
        async for _ in api.stream(model, ASKED, {}):
            pass

    with pytest.raises(ChatError) as found:
        asyncio.run(ask())
    assert found.value.kind == "unknown_model"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b'{"error": {"message": "no"}}', "no"),
        (400, b'{"detail": "no"}', "no"),
        (400, b'{"error": "no"}', "no"),
        (502, b"<html><title>502 Bad Gateway</title></html>", "502 Bad Gateway"),
        (500, b"\xff\xfe", "��"),
    ],
)
def test_what_the_server_says_is_found_in_any_form(status, body, said):
    assert refused(status, body, "http://x/v1").detail == said


def test_a_proxy_of_the_environment_is_not_asked(serve, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert models(endpoint(serve())).errors == []
