"""A module's work that goes on when nobody listens, can be looked at, and can be ended.

The module is run once with `step: start`: it forks, answers at once, and the fork does the work and
keeps what the module would have printed. Later runs with `step: look` say whether the work goes on,
or print what was kept, as if the module had done the work just now; `step: stop` ends it.

The arguments stay in the fork's memory, so that no token among them is written anywhere. Nobody
having looked for `PATIENCE` seconds ends the work too: then there is no run any more that waits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.vllm_files import read_json_object, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ansible.module_utils.basic import AnsibleModule

STEPS = ("start", "look", "stop")
PATIENCE = 1200  # seconds, longer than a run waits for a host that is out of reach
BLINK = 0.2
QUICK = 1.0  # seconds in which work may end that a start then answers with
ABSENT = 60  # seconds without a look after which a run is taken to be gone


def began(pid: int) -> str | None:
    """Return when a process began, as the kernel counts; None when it has ended."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] in "ZX" else words[19]


def children() -> dict[int, list[int]]:
    """Return all processes by their parents."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "stat").read_text("utf-8").rpartition(")")[2].split()
                found.setdefault(int(words[1]), []).append(int(entry.name))
    return found


def send(pids: set[int], number: int) -> None:
    """Send a signal to all of these that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def end(pid: int) -> None:
    """End a process and all that it started, whatever sessions they are in."""
    tree: set[int] = set()
    found = {pid}
    while found - tree:
        tree |= found
        send(tree, signal.SIGSTOP)  # so that they start nothing more
        family = children()
        found = tree.union(*(family.get(one, []) for one in tree))
    send(tree, signal.SIGKILL)


class Job:
    """The work under one name, and what is known of it below a directory."""

    def __init__(self, root: Path, name: str) -> None:
        """Use the directory `root`, which a reboot should empty, as it ends the work."""
        self.folder = root / hashlib.sha256(name.encode()).hexdigest()[:16]
        self.about, self.result = self.folder / "job.json", self.folder / "result.json"
        self.seen = self.folder / "seen"

    def known(self) -> dict[str, Any]:
        """Return what the work noted of itself; nothing where there is none, or no more."""
        try:
            said = read_json_object(self.about) or {}
        except (OSError, ValueError):
            return {}
        return said if said and began(said["pid"]) == said["began"] else {}

    @property
    def works(self) -> bool:
        """Whether the work goes on."""
        return bool(self.known())

    def notice(self) -> None:
        """Note that somebody waits for the work."""
        write_atomic(self.seen, str(time.monotonic()).encode(), 0o600)

    def unseen(self) -> float:
        """Return for how many seconds nobody has asked for the work."""
        try:
            return time.monotonic() - float(self.seen.read_text("utf-8"))
        except (OSError, ValueError):
            return math.inf

    def stop(self) -> None:
        """End the work, and forget it."""
        said = self.known()
        if said:
            end(said["pid"])
        shutil.rmtree(self.folder, ignore_errors=True)

    def fork(self, words: str) -> bool:
        """Return True in a process of its own that does the work, False in the one that asked.

        Args:
            words: what the work is; work of other words is other work.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700, parents=True)
        self.notice()
        reader, writer = os.pipe()
        asker = os.getpid()
        if os.fork():
            os.close(writer)
            with os.fdopen(reader, "rb") as told:
                told.read()  # until it is known who works
            return False
        os.close(reader)
        os.setsid()
        worker = os.fork()
        if worker:
            os.close(writer)
            self.keep(worker, asker)
        said = {"pid": os.getpid(), "began": began(os.getpid()), "words": words}
        write_atomic(self.about, json.dumps(said).encode(), 0o600)
        os.close(writer)
        return True

    def keep(self, worker: int, asker: int) -> None:
        """Wait for the end of the work, or bring it about when nobody waits for it.

        Args:
            worker: the process that works.
            asker: the one that began it.
        """
        silence()
        while os.waitpid(worker, os.WNOHANG) == (0, 0):
            if self.unseen() > PATIENCE:
                end(worker)
            time.sleep(BLINK)
        while os.getppid() == asker:
            time.sleep(BLINK)
        if payload() is not None:
            shutil.rmtree(str(payload()), ignore_errors=True)
        os._exit(0)

    @contextlib.contextmanager
    def kept(self, module: AnsibleModule) -> Iterator[None]:
        """Keep what the module prints in the block as the work's result, and end the process."""
        silence()
        fresh = self.folder / "result.part"
        os.dup2(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
        try:
            with contextlib.suppress(SystemExit):
                try:
                    yield
                except Exception as error:  # noqa: BLE001 - nobody else is there to say it
                    module.fail_json(
                        msg=f"{type(error).__name__}: {error}", exception=traceback.format_exc()
                    )
            sys.stdout.flush()
            fresh.replace(self.result)
        finally:
            os._exit(0)


def payload() -> Path | None:
    """Return the directory that Ansible has unpacked this module's code to, if it has.

    Ansible removes it when the module ends, and Python may yet import from it: so it is not the
    process that answers who ends it, but the one that waits for the work.
    """
    found = next((one for one in Path(__file__).parents if one.suffix == ".zip"), None)
    return found.parent if found and "_payload_" in found.parent.name else None


def silence() -> None:
    """Let go of the connection: it ends when nobody holds its streams any more."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def read_progress(path: str | None) -> dict[str, Any] | None:
    """Return what the work says of itself; None when it says nothing."""
    try:
        content: dict[str, Any] | None = read_json_object(Path(path)) if path else None
    except (OSError, ValueError):
        return None
    return content


def tell(module: AnsibleModule, job: Job, progress: str | None, wait: float) -> None:
    """Answer how far the work is, with the result of work that has ended; the module ends here.

    Args:
        module: the module.
        job: the work.
        progress: file in which the work says how far it is.
        wait: seconds in which it may end yet.
    """
    until = time.monotonic() + wait
    while job.works:
        if time.monotonic() >= until:
            job.notice()
            module.exit_json(phase="running", progress=read_progress(progress))
        time.sleep(BLINK)
    if not job.result.is_file():
        module.fail_json(
            msg="what was begun on the host was ended there, or the host was started anew;"
            " run again to go on"
        )
    # The very words of the process that did the work.
    sys.stdout.write(job.result.read_text("utf-8"))
    sys.stdout.flush()
    shutil.rmtree(job.folder, ignore_errors=True)
    sys.exit(0)


def require_alike(module: AnsibleModule, job: Job, words: str) -> None:
    """End other work of the same name that nobody waits for; the module ends if somebody does."""
    said = job.known()
    if not said or said["words"] == words:
        return
    if job.unseen() < ABSENT:
        module.fail_json(msg="another run does this on the host, otherwise; wait for it to end")
    job.stop()


def by_steps(module: AnsibleModule, job: Job) -> contextlib.AbstractContextManager[Any]:
    """Do the step that the module was asked for; return where its work is done, if it is to be.

    Args:
        module: has the options `step`, `progress` (file in which the work says how far it is) and
            `tokens`; without a step the work is done here and now.
        job: the work.
    """
    step, progress = module.params["step"], module.params["progress"]
    if step is None:
        return contextlib.nullcontext()
    if step == "stop":
        job.stop()
        if progress:
            with contextlib.suppress(OSError):
                Path(progress).unlink()
        module.exit_json(phase="stopped")
    if step == "start":
        known = {n: v for n, v in module.params.items() if n not in ("step", "tokens")}
        words = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
        require_alike(module, job, words)
        if not job.works:
            if job.fork(words):
                return job.kept(module)
            try:
                tell(module, job, progress, QUICK)
            except SystemExit:
                sys.stdout.flush()
                os._exit(0)  # without removing the code: see payload
    tell(module, job, progress, 0)
    raise AssertionError("not reached")  # tell ends the module
