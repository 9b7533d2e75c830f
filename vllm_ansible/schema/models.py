"""What a model's words must be to one another, beyond what each is by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_ansible.schema import problems as p
from vllm_ansible.schema.words import KEY_PATTERN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_ansible.data import Model, Source

HUBS = ("huggingface", "modelscope")
_WEB = ("https://", "http://")
# Where each kind may be, by the beginning of its address.
_SCHEMES = {
    "archive": ("file:///", *_WEB),
    "directory": ("file:///",),
    "files": _WEB,
    "git-lfs": ("https://", "http://", "git://", "ssh://", "file:///"),
    "huggingface": _WEB,
    "modelscope": _WEB,
}
_HIDDEN = "a value that is not shown"
# Where it is, what is given, what is allowed.
Refusal = tuple[list[str | int], str, str]


def token_path(path: Sequence[str | int]) -> bool:
    """Whether a path of a host's variables is that of a model source's token."""
    return path[:1] == ["vllm_models"] and path[2:3] == ["sources"] and path[4:] == ["token"]


def check_model(model: Model) -> Iterator[Refusal]:
    """Yields what is wrong with a model's words, each with its place below the model."""
    for index, source in enumerate(model.sources):
        for word, given, allowed in _source(source, model):
            yield ["sources", index, *word], given, allowed
    if model.size_bytes is not None and model.files:
        total = sum(one.size for one in model.files.values())
        if total > model.size_bytes:
            yield ["size_bytes"], str(model.size_bytes), f"at least what files add up to, {total}"


def _source(source: Source, model: Model) -> Iterator[Refusal]:
    schemes = _SCHEMES[source.kind]
    if not source.url.startswith(schemes):
        allowed = f"an address that begins with {' or '.join(schemes)}, as kind is {source.kind}"
        yield ["url"], p.shown(source.url), allowed
    if source.branch is not None:
        yield from _branch(source, model)
    if source.kind == "archive" and source.sha256 is None and not model.files:
        yield ["sha256"], "nothing", "the archive's sha256, or the model's files"
    if source.kind != "archive" and source.sha256 is not None:
        yield ["sha256"], "a checksum", f"nothing, as kind is {source.kind}: it is for an archive"
    yield from _token(source)


def _branch(source: Source, model: Model) -> Iterator[Refusal]:
    given = p.shown(source.branch)
    if source.kind not in HUBS:
        yield (
            ["branch"],
            given,
            f"nothing, as kind is {source.kind}: it is for {' and '.join(HUBS)}",
        )
    elif source.revision is not None:
        yield ["branch"], given, "nothing, as there is a revision"
    elif not model.files:
        yield ["branch"], given, "a commit in revision, or files that say what the model must be"


def _token(source: Source) -> Iterator[Refusal]:
    word = "token" if source.token is not None else "token_file"
    if source.token is not None and source.token_file is not None:
        yield [], "token and token_file", "one of the two, or neither"
    if getattr(source, word) is None:
        return
    if source.kind == "directory" or not source.url.startswith("https://"):
        yield [word], _HIDDEN, "nothing, as the address is not https: a token would be seen"
    text = source.token.get_secret_value() if source.token is not None else ""
    # A vault whose password is not at hand leaves an empty value: there is nothing to look at.
    if text and not KEY_PATTERN.fullmatch(text):
        yield ["token"], _HIDDEN, "16 to 256 characters of A-Z a-z 0-9 . _ ~ + / = -"
    if source.token_file is not None and not source.token_file.startswith(("/", "~/")):
        allowed = "an absolute path on the controller, such as ~/.config/vllm/hub_token"
        yield ["token_file"], p.shown(source.token_file), allowed
