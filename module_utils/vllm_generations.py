"""What a host was after its successful runs: copies of its managed files, and of the receipt.

Each generation is a directory that gets its name when everything is in it: one that a run was
interrupted in the middle of has a name that begins with a dot, and is never used.

    <root>/<first 12 digits of the plan's digest>/
        generation.json    what it is, and of each file its place, owner, bits, checksum and copy
        receipt.json       the receipt, as it was
        files/0001 ...     the copies
        used               a number: the greater, the later this generation was in use
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_files import (
    as_json,
    read_json_object,
    sha256_of,
    sync_directory,
    write_atomic,
)
from ansible.module_utils.vllm_owners import rights_of
from ansible.module_utils.vllm_placing import Placed

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT = 1
ABOUT, RECEIPT, FILES, USED = "generation.json", "receipt.json", "files", "used"
NEW, OLD, GOING = ".new", ".old", ".pruned"
NAME_LENGTH = 12
NOTE = ".started-with"
# Of each release so many states are kept besides; they take a few KiB each.
MOST_STATES = 10


class Generation(NamedTuple):
    """One that is whole: its name, its directory, what it says, and when it was in use."""

    name: str
    path: Path
    about: dict[str, Any]
    used: int

    @property
    def release(self) -> dict[str, Any]:
        """The release that it ran."""
        return dict(self.about.get("release") or {})

    @property
    def release_path(self) -> str:
        """Directory of that release; empty where none is known."""
        return str(self.release.get("path") or "")

    @property
    def paths(self) -> set[str]:
        """The files that it has."""
        return {record["path"] for record in self.about["files"]}

    def files(self) -> list[Placed]:
        """Return its files as they were.

        Raises:
            HostError: a copy is missing or damaged.
        """
        return [self._file(record) for record in self.about["files"]]

    def _file(self, record: dict[str, Any]) -> Placed:
        try:
            data = (self.path / record["copy"]).read_bytes()
        except OSError as error:
            raise HostError(f"generation {self.name}: {error}; take another one") from error
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise HostError(
                f"generation {self.name}: its copy of {record['path']} is damaged; take another one"
            )
        mode = int(record["mode"], 8)
        since = (self.about.get("written") or {}).get(record["path"])
        return Placed(record["path"], data, mode, record["owner"], record["group"], since)

    def shown(self) -> dict[str, Any]:
        """Return what is told of it."""
        return {
            "name": self.name,
            "release": self.release.get("id", ""),
            "version": self.release.get("version", ""),
            "saved": self.about.get("saved", ""),
            "instances": [str(one.get("name")) for one in self.about["instances"]],
        }


class Notes:
    """What each instance was last started with, as the role `openai_server` notes it."""

    def __init__(self, folder: Path) -> None:
        """Use the directory of the notes."""
        self.folder = folder

    def read(self, instance: str) -> str | None:
        """Return an instance's note; None when there is none."""
        try:
            return (self.folder / f"{instance}{NOTE}").read_text("utf-8").strip()
        except FileNotFoundError:
            return None

    def write(self, instance: str, text: str) -> None:
        """Note what an instance runs with."""
        write_atomic(self.folder / f"{instance}{NOTE}", f"{text}\n".encode(), 0o600)

    def withdraw(self, instance: str) -> None:
        """Forget what an instance runs with: whoever comes next starts it anew."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / f"{instance}{NOTE}").unlink()


class Store:
    """All generations of a host."""

    def __init__(self, root: Path) -> None:
        """Use the directory `root`, which need not be there yet."""
        self.root = root

    def tidy(self) -> None:
        """Bring an interrupted exchange to its end, and remove what is half."""
        for path in list(self.root.glob(".*")) if self.root.is_dir() else []:
            whole = self.root / path.stem[1:]
            if path.suffix == OLD and not whole.exists():
                path.rename(whole)
            else:
                shutil.rmtree(path)

    def kept(self) -> list[Generation]:
        """Return the whole ones, the one that was last in use first."""
        found = [self._read(path) for path in self._directories()]
        return sorted((one for one in found if one), key=lambda one: (-one.used, one.name))

    def _directories(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        # One that was being exchanged when the run was cut off is still whole under its old name.
        plain = [path for path in self.root.iterdir() if not path.name.startswith(".")]
        names = {path.name for path in plain}
        return plain + [one for one in self.root.glob(f".*{OLD}") if one.stem[1:] not in names]

    def _read(self, path: Path) -> Generation | None:
        try:
            about = read_json_object(path / ABOUT)
        except (OSError, ValueError):
            return None
        if about is None or about.get("format") != FORMAT:
            return None
        try:
            used = int((path / USED).read_text("utf-8"))
        except (OSError, ValueError):
            used = 0
        return Generation(str(about["name"]), path, about, used)

    def find(self, name: str) -> Generation | None:
        """Return the generation of this name; None when there is none."""
        return next((one for one in self.kept() if one.name == name), None)

    def save(self, receipt: bytes, about: dict[str, Any], files: dict[str, bytes]) -> None:
        """Keep a generation, in the place of an older one of its name.

        Args:
            receipt: the receipt's bytes.
            about: what is said of it (`described`).
            files: the bytes of its files, by path.

        Raises:
            OSError: the disk is full.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        self.tidy()
        name = about["name"]
        fresh, old = self.root / f".{name}{NEW}", self.root / f".{name}{OLD}"
        (fresh / FILES).mkdir(mode=0o700, parents=True)
        fresh.chmod(0o700)
        for record in about["files"]:
            write_atomic(fresh / record["copy"], files[record["path"]], 0o600)
        write_atomic(fresh / RECEIPT, receipt, 0o600)
        write_atomic(fresh / USED, f"{self._next()}\n".encode(), 0o600)
        write_atomic(fresh / ABOUT, as_json(about).encode(), 0o600)
        whole = self.root / name
        if whole.exists():
            whole.rename(old)
        fresh.rename(whole)
        sync_directory(self.root)
        self.tidy()

    def _next(self) -> int:
        return max((one.used for one in self.kept()), default=0) + 1

    def mark_used(self, one: Generation) -> bool:
        """Note that a generation is in use from now on; return whether that is new."""
        last = max(self.kept(), key=lambda other: other.used)
        if last.name == one.name:
            return False
        write_atomic(one.path / USED, f"{self._next()}\n".encode(), 0o600)
        return True

    def remove(self, one: Generation) -> None:
        """Give up a generation."""
        going = self.root / f".{one.name}{GOING}"
        one.path.rename(going)
        shutil.rmtree(going)


def name_of(receipt: dict[str, Any]) -> str:
    """Return the name of the generation that a receipt is of."""
    return str(receipt.get("plan_digest") or "")[:NAME_LENGTH]


def described(receipt: dict[str, Any], notes: Notes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what is said of the generation that a receipt is of, and its files' bytes.

    Raises:
        HostError: a file that the receipt names is not there, so that it cannot be brought back.
    """
    content = receipt.get("content") or {}
    records, data, written = [], {}, {}
    for number, item in enumerate(receipt.get("files") or [], 1):
        path = Path(item["path"])
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                raise HostError(f"{path} is no regular file")
            data[str(path)] = path.read_bytes()
            written[str(path)] = status.st_mtime_ns
        except OSError as error:
            raise HostError(str(error)) from error
        records.append(
            {
                "path": str(path),
                **rights_of(status),
                "sha256": sha256_of(path),
                "copy": f"{FILES}/{number:04d}",
            }
        )
    instances = list(content.get("instances") or [])
    about = {
        "format": FORMAT,
        "name": name_of(receipt),
        "plan_digest": receipt.get("plan_digest"),
        "release": content.get("release") or {},
        "files": records,
        "written": written,
        "links": list(receipt.get("links") or []),
        "units": list(receipt.get("units") or []),
        "instances": instances,
        "models": [str(one["path"]) for one in content.get("models") or [] if one.get("path")],
        "notes": {one["name"]: notes.read(one["name"]) for one in instances},
    }
    return about, data


def stamped(about: dict[str, Any]) -> dict[str, Any]:
    """Return it with the time at which it is saved."""
    return {**about, "saved": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def same(one: Generation, about: dict[str, Any]) -> bool:
    """Return whether a kept generation says the same, whenever it was saved."""
    when = ("saved", "written")
    before, after = (
        {key: value for key, value in each.items() if key not in when}
        for each in (one.about, about)
    )
    return before == after


def choose(kept: list[Generation], current: str | None, word: str) -> Generation:
    """Return the generation that a word means.

    Args:
        kept: all of them, the last one in use first.
        current: name of the one in use.
        word: a generation's name, a release's id or a version of vLLM; empty for the one that
            was in use before.

    Raises:
        HostError: there is none; lists what is kept.
    """
    others = [one for one in kept if one.name != current]
    for one in [*others, *kept]:
        known = (one.name, one.release.get("id"), one.release.get("version"))
        if not word or word in known:
            if not word and one.name == current:
                continue
            return one
    wanted = f"no generation {word!r} is kept" if word else "no earlier generation is kept"
    lines = [listing(one, current) for one in kept]
    there = "\n".join(lines) if lines else "  none: a successful run of site.yml keeps the first"
    raise HostError(
        f"{wanted}. What is kept (name, release, saved at):\n{there}",
        generations=[one.shown() for one in kept],
    )


def listing(one: Generation, current: str | None) -> str:
    """Return a generation as one line."""
    shown = one.shown()
    mark = "  in use" if one.name == current else ""
    return f"  {shown['name']}  {shown['release']}  {shown['saved']}{mark}"


def to_keep(kept: list[Generation], current: str | None, releases: int) -> set[str]:
    """Return the names of the generations that stay.

    The one in use, the one before it, and of the releases that were last in use so many as are
    asked for; of each of these releases at least its last state.

    Args:
        kept: all of them, the last one in use first.
        current: name of the one in use.
        releases: how many releases stay, two at least.
    """
    order = sorted(kept, key=lambda one: one.name != current)
    names = {one.name for one in order[:2]}
    chosen: list[str] = []
    for one in order:
        if one.release_path in chosen:
            if len(names) < MOST_STATES:
                names.add(one.name)
        elif len(chosen) < max(releases, 2):
            chosen.append(one.release_path)
            names.add(one.name)
    return names


def running_from(releases: Iterable[Path]) -> set[Path]:
    """Return those of the releases whose programs run."""
    programs = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                programs.add(str((process / "exe").readlink()))
    return {one for one in releases if any(text.startswith(f"{one}/") for text in programs)}
