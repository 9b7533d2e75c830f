"""Modules are run here as Ansible runs them: a process of their own, JSON in and JSON out."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ansible.module_utils
import pytest

from tests.standins import engine
from tests.standins.hubs import Hubs

ROOT = Path(__file__).resolve().parents[3]

# What Ansible's module wrapper does: the project's module_utils join Ansible's own, the arguments
# are put in place, and the file is run as a program.
BOOTSTRAP = """
import json, runpy, sys
import ansible.module_utils
ansible.module_utils.__path__.append(sys.argv[1])
from ansible.module_utils.testing import patch_module_args
with patch_module_args(json.load(sys.stdin)):
    runpy.run_path(sys.argv[2], run_name="__main__")
"""


class ModuleRunner:
    """Runs one of the project's modules."""

    def __init__(self, name: str) -> None:
        self.path = ROOT / "library" / f"{name}.py"

    def __call__(
        self,
        *,
        check: bool = False,
        env: dict[str, str] | None = None,
        fails: bool = False,
        program: Sequence[str] = (sys.executable,),
        **params: Any,
    ) -> dict[str, Any]:
        """Run it with a Python; the test fails unless the module ends as `fails` says."""
        settings = {
            "_ansible_check_mode": check,
            "_ansible_diff": True,
            "_ansible_remote_tmp": "/tmp",
        }
        ended = subprocess.run(
            [*program, "-c", BOOTSTRAP, str(ROOT / "module_utils"), str(self.path)],
            input=json.dumps({**params, **settings}),
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.stdout, ended.stderr
        result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        assert bool(result.get("failed")) == fails, json.dumps(result, indent=2)
        return result


def load(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the library."""
    shared = [*ansible.module_utils.__path__, str(ROOT / "module_utils")]
    monkeypatch.setattr(ansible.module_utils, "__path__", shared)
    spec = importlib.util.spec_from_file_location(f"library_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def module(request: pytest.FixtureRequest) -> ModuleRunner:
    """Return the runner of the module that the test file is named after."""
    return ModuleRunner(Path(request.node.path).stem.removeprefix("test_"))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory that stands first on PATH, for stand-ins of programs."""
    path = tmp_path / "programs"
    path.mkdir()
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
    return path


@pytest.fixture(scope="session")
def clients() -> Path:
    """Return an environment with the real clients of the models' hubs, from the pinned files."""
    pins = ROOT / "roles/pinned_tools/files/clients.txt"
    digest = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]
    place = ROOT / ".cache" / f"clients-{digest}"
    place.parent.mkdir(exist_ok=True)
    with (place.parent / "clients.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "whole").exists():
            uv = Path(sys.executable).with_name("uv")
            made = [str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(place)]
            subprocess.run(made, check=True)
            words = ["--quiet", "--require-hashes", "--python", str(place / "bin/python")]
            subprocess.run([str(uv), "pip", "install", *words, "-r", str(pins)], check=True)
            (place / "whole").touch()
    return place


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[Hubs]:
    """Yield the stand-in of the models' hubs, without a model."""
    git, static = tmp_path / "hub-git", tmp_path / "hub-static"
    git.mkdir()
    static.mkdir()
    made = Hubs(git=git, static=static).start()
    yield made
    made.stop()


def write_program(path: Path, text: str) -> Path:
    """Write an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def start_engine() -> Iterator[Callable[..., str]]:
    """Return a function that starts an engine and returns its address."""
    servers: list[Any] = []

    def begin(*words: str) -> str:
        server: Any = engine.make_server(engine.parse(["--port=0", "--model=tiny", *words]))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()
