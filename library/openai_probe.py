#!/usr/bin/python
"""Ask the running service what users will ask it, with the client that they use."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: openai_probe
short_description: Prove an OpenAI-compatible service by asking it
description:
  - Asks what the model's kind is for, through the C(openai) client. Of every kind C(/health) and
    the list of models; of text then a completion, a chat, a sampled chat and a streamed one; of
    vision the same, and a chat about an image; of embedding the vectors of two texts.
  - Needs the Python package C(openai) in the interpreter that runs it; vLLM's environment has it.
options:
  base_url:
    description:
      - The service's address, ending with C(/v1). It may carry no password. This or O(socket) must
        be given.
    type: str
    required: false
  socket:
    description: The engine's Unix socket, to ask it without its door.
    type: path
    required: false
  model:
    description: The served name of the model.
    type: str
    required: true
  kind:
    description:
      - What the model is served for.
      - The image is made in memory and travels in the request. That the answer's prompt has more
        tokens than the same question without the image shows that the model was given it.
      - Vectors must be finite and of one length; the same text must have the same vector each time
        (cosine 0.999 or more), and two texts must not.
    type: str
    choices: [text, vision, embedding]
    required: false
    default: text
  api_key_file:
    description: File on the host whose first line is the API key; none is sent when null.
    type: path
    required: false
    default: null
  question:
    description: The question of the chats, and the first of the texts that are embedded.
    type: str
    required: false
    default: Name the capital of France.
  max_tokens:
    description: Tokens that an answer may have.
    type: int
    required: false
    default: 64
  brief:
    description: Whether one chat (of embedding, its vectors) is enough besides health and models.
    type: bool
    required: false
    default: false
  timeout:
    description: Seconds that one request may take.
    type: int
    required: false
    default: 120
attributes:
  check_mode:
    support: full
    description: Asks as always; nothing is changed.
  diff_mode:
    support: none
    description: There is nothing to compare.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The instance answers as users will ask it
  openai_probe:
    base_url: http://127.0.0.1:8000/v1
    api_key_file: /etc/vllm/api_key
    model: smollm2-135m
  vars:
    ansible_python_interpreter: /opt/vllm/current/bin/python
"""

RETURN = r"""
base_url:
  description: The address that was asked; the socket's path where that was.
  returned: success
  type: str
question:
  description: The question of the chats.
  returned: success
  type: str
model:
  description: The served name that was asked.
  returned: always
  type: str
answer:
  description: The chat's answer; of an embedding model what its vectors are, in words.
  returned: success
  type: str
tokens_per_second:
  description: Rate of the streamed chat after its first token; null when it had only one or none.
  returned: success
  type: float
time_to_first_token:
  description: Seconds from the streamed chat's request to its first token; null without a chat.
  returned: success
  type: float
dimensions:
  description: How many numbers a vector has; null where the model makes none.
  returned: success
  type: int
checks:
  description: What was asked, each with name, ok and seconds.
  returned: always
  type: list
  elements: dict
"""

import base64
import math
import struct
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_urls import refuse_credentials, tls_context

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import httpx
    import openai
except ImportError:
    openai = None

LOOPBACK = ("127.0.0.1", "::1", "localhost")
KINDS = ("text", "vision", "embedding")
OTHER_TEXT = "Rain is expected in the afternoon, and the wind will turn to the north."
# Cosine of the angle between two vectors. Batches of other sizes round otherwise, by far less.
SAME = 0.999
IMAGE_SIDE = 112  # pixels


def read_key(path: str | None) -> str | None:
    """Return the API key; None when no file is named.

    Raises:
        HostError: the file is missing, unreadable or empty.
    """
    if path is None:
        return None
    try:
        lines = Path(path).read_text("utf-8").split()
    except OSError as error:
        raise HostError(f"api_key_file {path} cannot be read: {error.strerror}") from error
    if not lines:
        raise HostError(f"api_key_file {path} is empty; put the key into it")
    return lines[0]


def explain(error: Exception) -> str:
    """Return what went wrong, with the answer's status and the beginning of its text."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"status {response.status_code}: {response.text[:500].strip()}"
    cause = error.__cause__
    return f"{type(error).__name__}: {error}" + (f" ({cause})" if cause else "")


class Probe:
    """The questions to one service, and how each was answered."""

    def __init__(self, params: dict[str, Any]) -> None:
        """Prepare the clients; nothing is asked yet."""
        self.params, self.checks = params, list[dict[str, Any]]()
        self.key = read_key(params["api_key_file"])
        self.base = (params["base_url"] or "http://localhost/v1").rstrip("/")
        # A proxy of the environment is never the way to this very host.
        outside = urlsplit(self.base).hostname not in LOOPBACK
        timeout, path = params["timeout"], params["socket"]
        way = httpx.HTTPTransport(uds=path) if path else None
        self.http = httpx.Client(
            trust_env=outside, verify=tls_context(), timeout=timeout, transport=way
        )
        self.where = path or self.base
        self.client = openai.OpenAI(
            base_url=self.base,
            api_key=self.key or "none",
            max_retries=0,
            timeout=timeout,
            http_client=self.http,
        )

    def check(self, name: str, ask: Callable[[], Any]) -> Any:
        """Ask one thing, note how it went, and return the answer.

        Raises:
            HostError: it was not answered as it must be; the key is not in the message.
        """
        began = time.monotonic()
        reason: str | None = None
        answer: Any = None
        try:
            answer = ask()
        except HostError as error:
            reason = error.message
        except Exception as error:  # noqa: BLE001 - whatever the client raises, the check failed
            reason = explain(error)
        seconds = round(time.monotonic() - began, 3)
        self.checks.append({"name": name, "ok": reason is None, "seconds": seconds})
        if reason is not None:
            if self.key:
                reason = reason.replace(self.key, "***")
            raise HostError(
                f"{self.where}: check '{name}' of model {self.params['model']} failed: {reason}",
                model=self.params["model"],
                checks=self.checks,
            )
        return answer

    def health(self) -> None:
        """Ask C(/health), which lies beside C(/v1)."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        url = f"{self.base[:-3]}/health" if self.base.endswith("/v1") else f"{self.base}/health"
        self.http.get(url, headers=headers).raise_for_status()

    def models(self) -> None:
        """Look for the model's name in the list."""
        names = [model.id for model in self.client.models.list()]
        if self.params["model"] not in names:
            raise HostError(f"the service has {names}, and {self.params['model']!r} was expected")

    def completion(self) -> None:
        """Have a text continued."""
        params = self.params
        limits = {"max_tokens": params["max_tokens"], "temperature": 0}
        done = self.client.completions.create(model=params["model"], prompt="Once upon", **limits)
        if not done.choices or not done.choices[0].text.strip():
            raise HostError("the completion is empty")

    def request(self) -> dict[str, Any]:
        """Return the chat's request."""
        return {
            "model": self.params["model"],
            "messages": [{"role": "user", "content": self.params["question"]}],
            "max_tokens": self.params["max_tokens"],
            "temperature": 0,
        }

    def chat(self) -> str:
        """Ask the question and return the answer."""
        done = self.client.chat.completions.create(**self.request())
        text = said(done.choices[0].message) if done.choices else ""
        if not text.strip():
            raise HostError("the chat's answer is empty")
        return text.strip()

    def sampled(self) -> None:
        """Ask as most clients do, with a temperature.

        It takes another way through the engine than greedy decoding: one on the CPU that has no
        compiler and was not told to do without died of it, after it had answered everything else.
        """
        request = self.request() | {"max_tokens": 4, "temperature": 0.8, "top_p": 0.95}
        done = self.client.chat.completions.create(**request)
        if not done.choices:
            raise HostError("the sampled answer is empty")

    def stream(self) -> dict[str, Any]:
        """Ask the question as a stream and return its measures."""
        began = time.monotonic()
        first = last = None
        pieces, tokens = 0, None
        options = {"include_usage": True}
        chunks = self.client.chat.completions.create(
            **self.request(), stream=True, stream_options=options
        )
        for chunk in chunks:
            if chunk.choices and said(chunk.choices[0].delta):
                last = time.monotonic()
                first = first or last
                pieces += 1
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
        if first is None or last is None:
            raise HostError("the stream ended without a word")
        # A server that does not tell the number of tokens sends about one in each piece.
        after, spent = (tokens or pieces) - 1, last - first
        rate = round(after / spent, 1) if after > 0 and spent > 0 else None
        return {"tokens_per_second": rate, "time_to_first_token": round(first - began, 3)}

    def image(self) -> None:
        """Ask about an image, and see that it counted: a server may drop what it cannot read."""
        request = self.request()
        words = {"type": "text", "text": "Describe this image in one sentence."}
        seen = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture()}"}}
        tokens = []
        for content in ([words], [seen, words]):
            request["messages"] = [{"role": "user", "content": content}]
            done = self.client.chat.completions.create(**request)
            if not done.choices or not said(done.choices[0].message).strip():
                raise HostError("the answer about the image is empty")
            tokens.append(done.usage.prompt_tokens if done.usage else 0)
        if tokens[1] <= tokens[0]:
            raise HostError(
                f"the question has {tokens[0]} tokens without the image and {tokens[1]} with it: "
                f"the model was not given the image"
            )

    def vectors(self) -> int:
        """Have two texts embedded, one of them twice, and return the vectors' length."""
        texts = [self.params["question"], OTHER_TEXT]
        first, other = self.embed(texts)
        (again,) = self.embed(texts[:1])
        if len({len(first), len(other), len(again)}) > 1:
            raise HostError(f"vectors of {len(first)}, {len(other)} and {len(again)} numbers")
        if (likeness := cosine(first, again)) < SAME:
            raise HostError(f"the same text has another vector when asked again: {likeness:.4f}")
        if (likeness := cosine(first, other)) >= SAME:
            raise HostError(f"two texts have the same vector: {likeness:.4f}")
        return len(first)

    def embed(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text.

        Raises:
            HostError: one is missing, empty, not finite or nothing but zeros.
        """
        done = self.client.embeddings.create(model=self.params["model"], input=texts)
        found = [item.embedding for item in sorted(done.data, key=lambda item: item.index)]
        if len(found) != len(texts):
            raise HostError(f"{len(found)} vectors for {len(texts)} texts")
        for vector in found:
            if not all(map(math.isfinite, vector)):
                raise HostError("a vector has numbers that are not finite")
            if not any(vector):
                raise HostError(f"a vector of {len(vector)} numbers says nothing")
        return found

    def talk(self) -> dict[str, Any]:
        """Ask what one asks a model that answers in words."""
        if self.params["brief"]:
            return {"answer": self.check("chat", self.chat)}
        self.check("completion", self.completion)
        answer = self.check("chat", self.chat)
        self.check("sampled", self.sampled)
        measures = self.check("stream", self.stream)
        if self.params["kind"] == "vision":
            self.check("image", self.image)
        return {"answer": answer, **measures}

    def run(self) -> dict[str, Any]:
        """Ask everything and return the result.

        Raises:
            HostError: naming the first check that failed.
        """
        found: dict[str, Any] = {
            "tokens_per_second": None, "time_to_first_token": None, "dimensions": None,
        }  # fmt: skip
        with self.http:
            self.check("health", self.health)
            self.check("models", self.models)
            if self.params["kind"] == "embedding":
                length = self.check("vectors", self.vectors)
                found |= {"dimensions": length, "answer": f"a vector of {length} numbers"}
            else:
                found |= self.talk()
        asked = {name: self.params[name] for name in ("model", "question")}
        asked["base_url"] = self.where
        return {**asked, **found, "checks": self.checks}


def picture() -> str:
    """Return a square PNG in base64: red runs from left to right, green from top to bottom."""
    shades = [pixel * 255 // (IMAGE_SIDE - 1) for pixel in range(IMAGE_SIDE)]
    # Each line begins with its filter: none.
    lines = (b"\0" + bytes(v for red in shades for v in (red, green, 64)) for green in shades)
    header = struct.pack(">IIBBBBB", IMAGE_SIDE, IMAGE_SIDE, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(lines), 9)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n"
    for name, content in parts:
        sum_ = zlib.crc32(name + content)
        png += struct.pack(">I", len(content)) + name + content + struct.pack(">I", sum_)
    return base64.b64encode(png).decode()


def cosine(one: list[float], other: list[float]) -> float:
    """Return the cosine of the angle between two vectors; 1 where they point the same way."""
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths


def said(part: Any) -> str:
    """Return the text of a message or of a piece of one; a thinking model's thoughts count."""
    fields = ("content", "reasoning_content", "reasoning")
    return next((str(text) for text in (getattr(part, name, None) for name in fields) if text), "")


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "base_url": {"type": "str"},
            "socket": {"type": "path"},
            "model": {"type": "str", "required": True},
            "kind": {"type": "str", "choices": list(KINDS), "default": "text"},
            "api_key_file": {"type": "path", "no_log": False},
            "question": {"type": "str", "default": "Name the capital of France."},
            "max_tokens": {"type": "int", "default": 64},
            "brief": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 120},
        },
        required_one_of=[["base_url", "socket"]],
        mutually_exclusive=[["base_url", "socket"]],
        supports_check_mode=True,
    )
    if openai is None:
        module.fail_json(msg=missing_required_lib("openai"))
    try:
        refuse_credentials([module.params["base_url"] or ""], "base_url")
        result = Probe(module.params).run()
    except HostError as error:
        module.fail_json(msg=error.message, **error.details)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
