"""The page: its parts, and what happens when somebody uses them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import gradio as gr

from vllm_webui.api import Answer, Api, Model
from vllm_webui.conversation import asked, notice, to_api, without_last_answer
from vllm_webui.errors import ChatError
from vllm_webui.settings import Settings
from vllm_webui.texts import LANGUAGES, Language, preferred, sentence, text

# A page shows no more changes than somebody can see.
PAUSE_S = 0.05
# So often it is looked whether the page is still open, while no word comes.
LOOK_S = 1.0
LONGEST, USUAL = 32768, 1024
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
FONTS = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]
MONO = ["ui-monospace", "Consolas", "Noto Sans Mono CJK SC", "monospace"]


class Page:
    """One page; what it knows of a visitor stays with that visitor's session."""

    def __init__(self, settings: Settings, api: Api) -> None:
        self._settings = settings
        self._api = api
        self._models: dict[str, Model] = {}
        self._running: dict[str, asyncio.Event] = {}

    def build(self) -> gr.Blocks:
        """Return the page."""
        words = self._language_of(None, "auto")
        with gr.Blocks(
            title=self._settings.title, fill_height=True, fill_width=True,
            analytics_enabled=False, delete_cache=(3600, 86400),
        ) as page:  # fmt: skip
            self._lay_out(words)
            self._connect(page)
        return page

    def _lay_out(self, words: Language) -> None:
        """Make the parts; their texts follow when the page is loaded."""
        # It is no secret; with one of gradio's own it would be lost at each start of the service.
        self._remembered = gr.BrowserState(
            "",
            storage_key="vllm-webui-language",
            secret="language",  # noqa: S106
        )
        with gr.Row(elem_id="head"):
            self._model = gr.Dropdown(
                [], elem_id="model", scale=1, min_width=140, filterable=False, interactive=True
            )
            self._language = gr.Radio(
                list(LANGUAGES), elem_id="language", scale=0, min_width=200, container=False
            )
        with gr.Accordion(open=False, elem_id="settings") as self._settings_box:
            self._system = gr.Textbox(self._settings.system_prompt, lines=2, elem_id="system")
            with gr.Row():
                self._temperature = gr.Slider(0, 2, 0.7, step=0.05, elem_id="temperature")
                self._top_p = gr.Slider(0.05, 1, 1, step=0.05, elem_id="top-p")
                self._max_tokens = gr.Slider(1, LONGEST, USUAL, step=1, elem_id="max-tokens")
        self._chat = gr.Chatbot(
            elem_id="chat", scale=1, min_height=160, height="100%", show_label=False,
            buttons=["copy"], feedback_options=None, group_consecutive_messages=False,
        )  # fmt: skip
        self._ask = gr.MultimodalTextbox(
            elem_id="ask", show_label=False, sources=[], file_types=["image"],
            file_count="multiple", max_plain_text_length=1_000_000, max_lines=8, autofocus=True,
        )  # fmt: skip
        with gr.Row(elem_id="foot"):
            self._status = gr.Markdown(elem_id="status")
            self._again = gr.Button(elem_id="again", size="sm", scale=0, min_width=120)
            self._new = gr.Button(elem_id="new", size="sm", scale=0, min_width=120)
        self._words = gr.State(words)

    def _connect(self, page: gr.Blocks) -> None:
        """Say what follows what."""
        said = [self._settings_box, self._system, self._temperature, self._top_p, self._max_tokens,
                self._model, self._language, self._chat, self._ask, self._again, self._new,
                self._words, self._status]  # fmt: skip
        sampling = [self._system, self._temperature, self._top_p, self._max_tokens]
        model = [self._model, self._max_tokens]
        asking = {"concurrency_limit": self._settings.answers, "concurrency_id": "answers"}
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        page.load(self.opened, [self._remembered], said, **quiet).then(
            self.listed, [self._model, self._words], [self._model, self._status], **quiet
        ).then(self.chosen, model, [self._ask, self._max_tokens], **quiet)
        self._language.input(self.translated, [self._language], said, **quiet).then(
            lambda words: words, [self._words], [self._remembered], **quiet
        )
        self._model.focus(
            self.listed, [self._model, self._words], [self._model, self._status], **quiet
        )
        self._model.change(self.chosen, model, [self._ask, self._max_tokens], **quiet)
        parts = [self._chat, self._ask, self._status]
        answering = [self._chat, self._model, self._words, *sampling]
        self._ask.submit(
            self.put, [self._chat, self._ask], [self._chat, self._ask], queue=False, **quiet
        ).then(self.answer, answering, parts, **asking, **quiet)
        self._again.click(
            self.put_again, [self._chat], [self._chat, self._ask], queue=False, **quiet
        ).then(self.answer, answering, parts, **asking, **quiet)
        self._ask.stop(self.stop, queue=False, **quiet)
        self._new.click(self.stop, queue=False, **quiet).then(
            lambda: ([], ""), None, [self._chat, self._status], queue=False, **quiet
        )

    def _language_of(self, request: gr.Request | None, remembered: str) -> Language:
        if remembered in ("en", "zh"):
            return remembered  # type: ignore[return-value]
        if self._settings.language != "auto":
            return self._settings.language
        return preferred(request.headers.get("accept-language", "") if request else "")

    def opened(self, remembered: str, request: gr.Request) -> list[Any]:
        """The page's texts in the visitor's language."""
        return self._texts(self._language_of(request, remembered))

    def translated(self, chosen: str) -> list[Any]:
        """The page's texts in another language."""
        return self._texts(LANGUAGES[chosen])

    @staticmethod
    def _texts(words: Language) -> list[Any]:
        def say(name: str) -> str:
            return text(words, name)

        shown = next(name for name, one in LANGUAGES.items() if one == words)
        return [
            gr.update(label=say("settings")),
            gr.update(label=say("system"), info=say("system_hint")),
            gr.update(label=say("temperature"), info=say("temperature_hint")),
            gr.update(label=say("top_p"), info=say("top_p_hint")),
            gr.update(label=say("max_tokens")),
            gr.update(label=say("model")),
            gr.update(label=say("language"), value=shown),
            gr.update(label=say("chat"), placeholder=say("empty")),
            gr.update(label=say("ask"), placeholder=say("ask")),
            say("again"),
            say("new"),
            words,
            "",
        ]

    async def listed(self, chosen: str | None, words: Language) -> tuple[Any, Any]:
        """The models that can be chosen now, and why there are not more.

        A choice that stands is not sent back: by now the visitor may have made another.
        """
        found = await self._api.models()
        self._models = {one.label: one for one in found.models}
        labels = list(self._models)
        instead = {} if chosen in self._models else {"value": next(iter(labels), None)}
        said = "  \n".join(f"⚠️ {sentence(words, error)}" for error in found.errors)
        return gr.update(choices=labels, **instead), said or gr.skip()

    def chosen(self, label: str | None, max_tokens: int) -> tuple[Any, Any]:
        """What the chosen model can take; a limit that it can is the visitor's own, and stays."""
        model = self._models.get(label or "")
        if model is None:
            return gr.skip(), gr.skip()
        longest = min(model.context or LONGEST, LONGEST)
        sources = ["upload"] if model.endpoint.vision else []
        instead = {} if max_tokens <= longest // 2 else {"value": min(USUAL, longest // 2)}
        return gr.update(sources=sources), gr.update(maximum=longest, **instead)

    @staticmethod
    def put(history: list[Any], said: Mapping[str, Any]) -> tuple[Any, Any]:
        """The question stands in the conversation."""
        words, files = str(said.get("text") or "").strip(), list(said.get("files") or [])
        return [*history, *asked(words, files)], _busy(clear=True)

    @staticmethod
    def put_again(history: list[Any]) -> tuple[Any, Any]:
        """The last question stands without its answer."""
        return without_last_answer(history), _busy()

    async def answer(
        self, history: list[Any], label: str | None, words: Language, system: str,
        temperature: float, top_p: float, max_tokens: float, request: gr.Request,
    ) -> AsyncIterator[tuple[Any, Any, Any]]:  # fmt: skip
        """Answer the last question, piece by piece."""
        if not history or history[-1]["role"] != "user":
            yield gr.skip(), _idle(), gr.skip()
            return
        session = str(request.session_hash)
        stop = self._running[session] = asyncio.Event()
        sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": int(max_tokens)}
        answer = Answer()
        yield gr.skip(), gr.skip(), ""
        try:
            model = await self._model_by(label)
            messages = to_api(history, system, _uploads())
            pieces = self._api.stream(model, messages, sampling)
            async with aclosing(_until(stop, pieces)) as growing:
                async for grown in growing:
                    if grown is None:
                        yield gr.skip(), gr.skip(), gr.skip()
                        continue
                    answer = grown
                    yield _with(history, answer), gr.skip(), gr.skip()
            shown, status = _ended(history, answer, words, stopped=stop.is_set())
            yield shown, _idle(), status
        except ChatError as error:
            shown = _with(history, answer) if answer.text else history
            yield [*shown, notice(f"⚠️ {sentence(words, error)}")], _idle(), ""
        finally:
            if self._running.get(session) is stop:
                del self._running[session]

    async def _model_by(self, label: str | None) -> Model:
        """The chosen model; where none could be listed before, it is asked again."""
        if label not in self._models:
            found = await self._api.models()
            self._models = {one.label: one for one in found.models}
            if not self._models:
                raise found.errors[0] if found.errors else ChatError("no_models")
        model = self._models.get(label or next(iter(self._models)))
        if model is None:
            raise ChatError("unknown_model", str(label))
        return model

    def stop(self, request: gr.Request) -> None:
        """End the visitor's running answer."""
        stop = self._running.get(str(request.session_hash))
        if stop is not None:
            stop.set()


def _uploads() -> Path:
    """Where gradio keeps what was uploaded."""
    return Path(os.environ["GRADIO_TEMP_DIR"])


def _busy(*, clear: bool = False) -> Any:
    cleared = {"value": {"text": "", "files": []}} if clear else {}
    return gr.update(submit_btn=False, stop_btn=True, **cleared)


def _idle() -> Any:
    return gr.update(submit_btn=True, stop_btn=False)


def _with(history: list[Any], answer: Answer) -> list[Any]:
    return [*history, {"role": "assistant", "content": answer.text}]


def _ended(
    history: list[Any], answer: Answer, words: Language, *, stopped: bool
) -> tuple[list[Any], str]:
    """The conversation after an answer, and what is said of it."""
    if not answer.text:
        return [*history, notice(text(words, "stopped" if stopped else "nothing_said"))], ""
    if stopped:
        return _with(history, answer), text(words, "stopped")
    figures = {"tokens": answer.tokens, "seconds": f"{answer.seconds:.1f}"}
    if answer.rate is None:
        status = text(words, "done_short", **figures)
    else:
        figures |= {"rate": f"{answer.rate:.0f}", "first": f"{answer.first_s or 0:.1f}"}
        status = text(words, "done", **figures)
    if answer.finish == "length":
        status = f"{text(words, 'cut')} {status}"
    return _with(history, answer), status


async def _until(
    stop: asyncio.Event, pieces: AsyncGenerator[Answer, None]
) -> AsyncGenerator[Answer | None, None]:
    """The growing answer until it ends or is stopped; None now and then while nothing comes."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    coming: asyncio.Future[Any] | None = None
    shown = 0.0
    try:
        while True:
            coming = coming or asyncio.ensure_future(_next(pieces))
            await asyncio.wait(
                {coming, stopping}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED
            )
            if stopping.done():
                return
            if not coming.done():
                yield None
                continue
            try:
                grown = coming.result()
            except StopAsyncIteration:
                return
            coming = None
            if loop.time() - shown >= PAUSE_S or grown.finish:
                shown = loop.time()
                yield grown
    finally:
        stopping.cancel()
        if coming is not None:
            coming.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration, ChatError):
                await coming
        await pieces.aclose()


async def _next(pieces: AsyncIterator[Answer]) -> Answer:
    return await pieces.__anext__()
