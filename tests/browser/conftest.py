"""The web UI in a real browser: its own environment, Debian's Chromium, a stand-in engine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright

from tests.standins import engine
from vllm_ansible.paths import CACHE, PROJECT, WEBUI

SHOTS = PROJECT / "artifacts" / "webui"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
STARTS_S = 120
# The machine may have much else to do.
PATIENCE_S = 30


@pytest.fixture(scope="session")
def python() -> Path:
    """The Python of an environment with what the web UI's lock file lists, kept between runs."""
    lock = WEBUI / "requirements.txt"
    key = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    folder = CACHE / "webui" / f"{key}-py{sys.version_info[0]}.{sys.version_info[1]}"
    if not (folder / "complete").exists():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run(
            [*uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)], check=True
        )
        install = [*uv, "pip", "install", "-q", "--python", str(folder / "bin/python")]
        subprocess.run([*install, "--require-hashes", "--no-deps", "-r", str(lock)], check=True)
        (folder / "complete").touch()
    return folder / "bin/python"


@dataclass
class Engine:
    """A running stand-in: what it was asked, and how to switch it off and on again."""

    engine: engine.Engine
    server: Any

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def off(self) -> None:
        self.server.shutdown()
        self.server.server_close()


Serve = Callable[..., Engine]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a stand-in engine, at a port of a web UI's endpoint."""
    running: list[Engine] = []

    def begin(port: int, *words: str) -> Engine:
        server: Any = engine.make_server(engine.parse([f"--port={port}", *words]))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(Engine(server.RequestHandlerClass.engine, server))
        return running[-1]

    yield begin
    for one in running:
        one.off()


@dataclass(frozen=True)
class Webui:
    """A running web UI: its address, the ports at which it looks for engines, and its log."""

    address: str
    ports: list[int]
    log: Path


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="session")
def run_webui(
    python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Webui]]:
    """Return a function that starts a web UI, for all tests that want the same one."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(
        *, engines: int = 1, vision: bool = False, credentials: dict[str, str] | None = None,
        **settings: Any,
    ) -> Webui:  # fmt: skip
        own, *ports = free_ports(engines + 1)
        folder = tmp_path_factory.mktemp("webui")
        endpoints = [
            {"name": f"e{n}", "url": f"http://127.0.0.1:{port}/v1", "vision": vision}
            for n, port in enumerate(ports)
        ]
        given = {"endpoints": endpoints, "port": own, **settings}
        (folder / "settings.json").write_text(json.dumps(given))
        for name, content in (credentials or {}).items():
            (folder / name).write_text(content)
        environment = {
            **os.environ,
            "PYTHONPATH": str(WEBUI),
            "PYTHONDONTWRITEBYTECODE": "1",
            "GRADIO_TEMP_DIR": str(folder / "uploads"),
            "CREDENTIALS_DIRECTORY": str(folder),
            "HOME": str(folder),
        }
        command = [str(python), "-m", "vllm_webui", str(folder / "settings.json")]
        with (folder / "webui.log").open("wb") as log:
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        wait_for(f"http://127.0.0.1:{own}", running[-1], folder / "webui.log")
        return Webui(f"http://127.0.0.1:{own}", ports, folder / "webui.log")

    yield begin
    for process in running:
        process.terminate()
        process.wait(20)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + STARTS_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{address}/health").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="session")
def webui(run_webui: Callable[..., Webui]) -> Webui:
    """One engine, nobody has to log in."""
    return run_webui()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Tests run as root, which Chromium's own sandbox refuses.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visitor:
    """Somebody in front of the page; every address that the page asked for is noted."""

    page: Page
    context: BrowserContext
    asked: list[str]
    held_back: list[str]
    name: str

    def note(self, asked: Request) -> None:
        self.asked.append(asked.url)

    def note_failure(self, asked: Request) -> None:
        """What the page's own policy forbids has not left the browser."""
        if asked.failure == "csp":
            self.asked.remove(asked.url)
            self.held_back.append(asked.url)

    def visit(self, address: str, *, ready: bool = True) -> Page:
        self.page.set_default_timeout(PATIENCE_S * 1000)
        self.page.goto(address)
        if ready:
            self.page.wait_for_selector("#ask textarea")
            # The texts follow when the page has been told its visitor's language.
            self.page.wait_for_function("document.querySelector('#ask textarea').placeholder")
        return self.page

    def ask(self, text: str) -> None:
        self.page.fill("#ask textarea", text)
        self.page.press("#ask textarea", "Enter")

    def said(self, who: str = "bot") -> list[str]:
        return [one.strip() for one in self.page.locator(f"#chat .{who} .prose").all_inner_texts()]

    def wait_for(self, text: str, timeout_s: float = PATIENCE_S) -> None:
        self.page.get_by_text(text).first.wait_for(timeout=timeout_s * 1000)

    def shot(self, name: str) -> Path:
        SHOTS.mkdir(parents=True, exist_ok=True)
        file = SHOTS / f"{name}.png"
        self.page.screenshot(path=file)
        return file


@pytest.fixture
def visitor(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Visitor]]:
    """Return a function that opens a browser's window; nothing may be asked of anybody else."""
    made: list[Visitor] = []

    def begin(**words: Any) -> Visitor:
        context = chromium.new_context(
            **{"locale": "en-US", "viewport": {"width": 1100, "height": 760}, **words}
        )
        page = context.new_page()
        one = Visitor(page, context, [], [], request.node.name)
        page.on("request", one.note)
        page.on("requestfailed", one.note_failure)
        made.append(one)
        return one

    yield begin
    for one in made:
        one.shot(f"{one.name}-end")
        one.context.close()
        hosts = {url.split("/")[2] for url in one.asked if url.startswith("http")}
        assert len(hosts) <= 1, hosts
