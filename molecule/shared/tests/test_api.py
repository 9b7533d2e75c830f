"""The API, asked from outside the machine as users ask it."""

import httpx
import openai
import pytest
from conftest import MODEL, PORT, SERVERS

testinfra_hosts = SERVERS
QUESTION = [{"role": "user", "content": "Name the capital of France."}]


@pytest.fixture(scope="module")
def client(address, key):
    return openai.OpenAI(base_url=f"http://{address}:{PORT}/v1", api_key=key, timeout=120)


def test_health_needs_no_key(address):
    assert httpx.get(f"http://{address}:{PORT}/health", timeout=10).status_code == 200


def test_the_served_name_is_listed(client):
    assert [model.id for model in client.models.list()] == [MODEL]


def test_a_completion_goes_on_with_the_text(client):
    answer = client.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=8, temperature=0
    )
    assert "Paris" in answer.choices[0].text


def test_a_chat_is_answered_by_the_model(client):
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=32, temperature=0
    )
    assert "Paris" in answer.choices[0].message.content


def test_a_streamed_chat_arrives_in_pieces(client):
    pieces = [
        chunk.choices[0].delta.content
        for chunk in client.chat.completions.create(
            model=MODEL, messages=QUESTION, max_tokens=32, temperature=0, stream=True
        )
        if chunk.choices and chunk.choices[0].delta.content
    ]
    assert len(pieces) > 3
    assert "Paris" in "".join(pieces)


def test_an_unknown_model_is_named_in_the_error(client):
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        client.chat.completions.create(model="no-such-model", messages=QUESTION)
