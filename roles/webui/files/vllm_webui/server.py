"""The server of the page: its door, its health, and nothing beside them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllm_webui.api import Api
from vllm_webui.login import allowed
from vllm_webui.page import CSS, FONTS, MONO, Page
from vllm_webui.settings import Settings
from vllm_webui.share import share
from vllm_webui.texts import TEXTS

log = logging.getLogger("vllm_webui")
# Bytes of one upload: a photograph; inside a request it becomes a third larger.
MOST_UPLOADED = 10 * 2**20
# A wrong password is answered late, so that guessing takes long.
WRONG_S = 1.0
# The page talks to this server alone, whatever a model writes: an image in an answer would
# otherwise carry words of the conversation to any address.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}


def application(settings: Settings, keys: Mapping[str, str], logins: Mapping[str, str]) -> FastAPI:
    """Return the page as an application.

    Args:
        settings: The settings.
        keys: API keys by the names of their credentials.
        logins: Hashed passwords by user; empty where nobody has to log in.
    """
    api = Api(settings.endpoints, keys)
    page = Page(settings, api).build()
    page.queue(default_concurrency_limit=64, max_size=256, api_open=False)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def health() -> dict[str, str]:
        return {"status": "ok"}

    async def ready(response: Response) -> dict[str, Any]:
        found = await api.models()
        if found.errors or not found.models:
            response.status_code = 503
        said = [f"{error.where}: {error.kind}" for error in found.errors]
        return {"models": [one.label for one in found.models], "errors": said}

    app.get("/health")(health)
    app.get("/ready")(ready)

    async def enters(user: str, password: str) -> bool:
        if await asyncio.to_thread(allowed, logins, user, password):
            return True
        await asyncio.sleep(WRONG_S)
        return False

    words: dict[str, Any] = {}
    if logins:
        message = " ".join(text["login"] for text in TEXTS.values())
        words = {"auth": enters, "auth_message": message}
    gr.mount_gradio_app(
        app, page, path="/", footer_links=[], run_history=False, max_file_size=MOST_UPLOADED,
        show_error=False, ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False,
        theme=gr.themes.Default(font=FONTS, font_mono=MONO), css=CSS, **words,
    )  # fmt: skip
    app.add_middleware(Headers)
    return app


class Headers:
    """Adds the headers that keep a page to its own server; passes everything on as it comes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS.items()]
            await send(message)

        await self._app(scope, receive, sent)


async def serve(settings: Settings, keys: Mapping[str, str], logins: Mapping[str, str]) -> None:
    """Serve until stopped."""
    app = application(settings, keys, logins)
    # What is asked and answered is nobody's business; nginx knows who came.
    config = uvicorn.Config(
        app, host="127.0.0.1", port=settings.port or 0, access_log=False, log_level="warning",
        uds=str(settings.socket) if settings.socket else None, timeout_graceful_shutdown=5,
        proxy_headers=True, forwarded_allow_ips="*",
    )  # fmt: skip
    server = uvicorn.Server(config)
    if settings.share:
        task = asyncio.create_task(share(settings.share))
        task.add_done_callback(lambda done: log.info("%s", done.exception() or done.result()))
    await server.serve()
