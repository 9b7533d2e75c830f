"""What `vllm serve` is told by the kind of the model: text, vision or embedding."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from vllm_ansible.plan.context import SAID

if TYPE_CHECKING:
    from vllm_ansible.data import Kind, Model
    from vllm_ansible.plan.context import Context
    from vllm_ansible.schema import Instance

# What the door lets through of OpenAI's API: what a model of the kind answers, and no more.
ROUTES: dict[Kind, list[str]] = {
    "text": ["/v1/models", "/v1/completions", "/v1/chat/completions"],
    "vision": ["/v1/models", "/v1/completions", "/v1/chat/completions"],
    "embedding": ["/v1/models", "/v1/embeddings"],
}
# No such domain can exist (RFC 2606). An empty list would allow every domain.
NO_DOMAIN = "none.invalid"
# A conversation carries its images along, so one is too few; an old engine makes room for all of
# them at once, and its own limit is one.
IMAGES = 4
IMAGES_OLD = 1


def arguments(context: Context, words: Instance, model: Model) -> dict[str, Any]:
    """The arguments that a model's kind wants, in the form that the version reads."""
    _served_since(context, words, model)
    made = {"text": _text, "vision": _vision, "embedding": _embedding}[model.kind]
    config = made(context, words)
    if words.chat_template is not None:
        config["chat-template"] = template_path(words)
        why = f"the controller's {words.chat_template}"
        context.because(f"{words.name}.chat-template", template_path(words), why)
    return config


def template_path(words: Instance) -> str:
    """Where an instance's chat template lies on its host."""
    return f"/etc/vllm/{words.name}.jinja"


def _served_since(context: Context, words: Instance, model: Model) -> None:
    since = model.vllm_since
    if since is not None and Version(context.version) < Version(since):
        context.problems.append(
            f"vllm_instances {words.name}: vLLM {context.version} does not serve {words.model}: "
            f"say vllm_engine.version {since} or newer, or another model"
        )


def _text(_context: Context, _words: Instance) -> dict[str, Any]:
    return {}


def _vision(context: Context, words: Instance) -> dict[str, Any]:
    """Images travel inside the request; nothing is fetched for whoever asks."""
    versions, version = context.data.versions, context.version
    if not versions.knows_flag(version, "limit-mm-per-prompt"):
        context.problems.append(
            f"vllm_instances {words.name}: {words.model} is asked with images, and vLLM {version} "
            f"has no limit-mm-per-prompt: say vllm_engine.version "
            f"{versions.flags['limit-mm-per-prompt'].since} or newer"
        )
        return {}
    as_json = versions.has_json_limits(version)
    images = words.images or (IMAGES if as_json else IMAGES_OLD)
    limit = json.dumps({"image": images, "video": 0}) if as_json else f"image={images}"
    given = SAID if words.images else "the inventory gives no images"
    context.because(f"{words.name}.limit-mm-per-prompt", limit, given)
    return {"limit-mm-per-prompt": limit} | _media(context, words)


def _media(context: Context, words: Instance) -> dict[str, Any]:
    known = context.data.versions.knows_flag
    config: dict[str, Any] = {}
    if known(context.version, "allowed-media-domains"):
        config["allowed-media-domains"] = [NO_DOMAIN]
        why = "the engine fetches nothing that a request names: images come as data: URIs"
        context.because(f"{words.name}.allowed-media-domains", NO_DOMAIN, why)
    else:
        context.notices.append(
            f"{words.name}: vLLM {context.version} fetches an image from the URL that a request "
            f"names and cannot be told not to; its unit reaches the host's own loopback alone"
        )
    if words.media_path is None:
        return config
    if known(context.version, "allowed-local-media-path"):
        return config | {"allowed-local-media-path": words.media_path}
    context.problems.append(
        f"vllm_instances {words.name}: media_path needs allowed-local-media-path, which vLLM "
        f"{context.version} has not: leave it out, or take a newer version"
    )
    return config


def _embedding(context: Context, words: Instance) -> dict[str, Any]:
    """Vectors instead of text. The oldest versions see by the model what it is for."""
    known, version = context.data.versions.knows_flag, context.version
    config: dict[str, Any] = {}
    if known(version, "runner"):
        config["runner"] = "pooling"
    elif known(version, "task"):
        config["task"] = "embed"
    for flag, value in config.items():
        context.because(f"{words.name}.{flag}", value, f"{words.model} makes vectors")
    if words.pooling is None:
        return config
    if known(version, "pooler-config"):
        return config | {"pooler-config": json.dumps({"pooling_type": words.pooling})}
    context.problems.append(
        f"vllm_instances {words.name}: pooling needs pooler-config, which vLLM {version} has not: "
        f"leave it out, or take a newer version"
    )
    return config
