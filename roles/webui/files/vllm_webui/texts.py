"""What the page says, in its languages."""

# ruff: noqa: RUF001 - Chinese has punctuation marks of its own

from __future__ import annotations

from typing import Literal

from vllm_webui.errors import ChatError

Language = Literal["en", "zh"]
LANGUAGES: dict[str, Language] = {"English": "en", "中文": "zh"}
_OURS: dict[str, Language] = {one: one for one in LANGUAGES.values()}

TEXTS: dict[Language, dict[str, str]] = {
    "en": {
        "language": "Language",
        "settings": "Settings",
        "model": "Model",
        "system": "System prompt",
        "system_hint": "How the model shall behave, if you want to say it.",
        "temperature": "Temperature",
        "temperature_hint": "0: always the likeliest word; higher: more varied.",
        "top_p": "Top-p",
        "top_p_hint": "Only the likeliest words, up to this share.",
        "max_tokens": "Longest answer (tokens)",
        "ask": "Ask something",
        "chat": "Conversation",
        "empty": "Ask something. The model remembers what was said before.",
        "again": "Answer again",
        "new": "New conversation",
        "login": "Please log in.",
        "done": "{tokens} tokens, {rate} tokens/s, the first after {first} s",
        "done_short": "{tokens} tokens after {seconds} s",
        "stopped": "Stopped.",
        "cut": "The answer ended at the longest length that is set.",
        "nothing_said": "The model ended its answer without a word.",
        "error_broken": "The server at {where} broke off in the middle of its answer.",
        "error_busy": "The server has too much to do at the moment. Try again in a little while.",
        "error_down": "Nobody answers at {where}. The server is switched off or cannot be reached.",
        "error_failed": "The server at {where} failed: {detail}",
        "error_image": "{detail} is no image of the kinds PNG, JPEG, GIF or WebP.",
        "error_key": "The server at {where} refuses this page's API key. Tell whoever runs it.",
        "error_no_api": "What answers at {where} is no OpenAI-compatible server.",
        "error_no_models": "The server at {where} serves no model.",
        "error_refused": "The server does not take the request: {detail}",
        "error_silent": "The server at {where} has been silent for too long.",
        "error_starting": (
            "The server at {where} is starting or has stopped. Try again in a minute."
        ),
        "error_too_long": (
            "The conversation has become too long for this model. Begin a new one, or set a "
            "shorter longest answer. ({detail})"
        ),
        "error_unknown_model": "The server no longer serves this model. Choose another one.",
    },
    "zh": {
        "language": "语言",
        "settings": "设置",
        "model": "模型",
        "system": "系统提示词",
        "system_hint": "希望模型如何表现，可以写在这里。",
        "temperature": "温度",
        "temperature_hint": "0 总是选最可能的词；越高越多样。",
        "top_p": "Top-p",
        "top_p_hint": "只在累计概率达到该值的词中选择。",
        "max_tokens": "回答最大长度（token）",
        "ask": "请输入问题",
        "chat": "对话",
        "empty": "请提问。模型记得之前说过的内容。",
        "again": "重新回答",
        "new": "新对话",
        "login": "请登录。",
        "done": "{tokens} 个 token，每秒 {rate} 个，{first} 秒后开始回答",
        "done_short": "{tokens} 个 token，用时 {seconds} 秒",
        "stopped": "已停止。",
        "cut": "回答已达到设定的最大长度。",
        "nothing_said": "模型没有给出任何内容。",
        "error_broken": "服务器 {where} 在回答途中断开了连接。",
        "error_busy": "服务器当前请求过多，请稍后再试。",
        "error_down": "无法连接 {where}：服务器已关闭或网络不通。",
        "error_failed": "服务器 {where} 出错：{detail}",
        "error_image": "{detail} 不是 PNG、JPEG、GIF 或 WebP 图片。",
        "error_key": "服务器 {where} 拒绝了本页面的 API 密钥，请联系管理员。",
        "error_no_api": "{where} 上运行的不是兼容 OpenAI 的服务器。",
        "error_no_models": "服务器 {where} 没有提供任何模型。",
        "error_refused": "服务器不接受该请求：{detail}",
        "error_silent": "服务器 {where} 长时间没有响应。",
        "error_starting": "服务器 {where} 正在启动或已停止，请一分钟后再试。",
        "error_too_long": (
            "对话超出了该模型的长度上限。请开始新对话，或减小回答最大长度。（{detail}）"
        ),
        "error_unknown_model": "服务器已不再提供该模型，请选择其他模型。",
    },
}


def text(language: Language, name: str, **values: object) -> str:
    """Return a text with its values filled in."""
    return TEXTS[language][name].format(**values)


def sentence(language: Language, error: ChatError) -> str:
    """Return what a person is told of an error."""
    where = error.where.removesuffix("/v1")
    return text(language, f"error_{error.kind}", where=where, detail=error.detail or "…")


def preferred(accept_language: str) -> Language:
    """Return the language that a browser asks for: the best of ours, else English.

    Args:
        accept_language: The request's header of that name.
    """
    wanted: list[tuple[float, Language]] = []
    for part in accept_language.split(","):
        name, _, weight = part.strip().partition(";q=")
        ours = _OURS.get(name.lower().split("-")[0])
        if ours is not None:
            wanted.append((_weight(weight), ours))
    # Of two that are wanted alike, the one that is named first.
    return max(wanted, key=lambda one: one[0], default=(0.0, "en"))[1]


def _weight(text_: str) -> float:
    try:
        return float(text_) if text_ else 1.0
    except ValueError:
        return 0.0
