"""A model's files at hand: a directory of the host, or an archive."""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ansible.module_utils.vllm_download import TROUBLE, PlaceError, explain, put, resume
from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_files import CHUNK, require_free, sha256_of
from ansible.module_utils.vllm_files_source import parse_manifest
from ansible.module_utils.vllm_model_source import Order, Source
from ansible.module_utils.vllm_model_store import Content, Store, require_path, size_or_none
from ansible.module_utils.vllm_rate import Rate

if TYPE_CHECKING:
    from collections.abc import Iterator

SILENCE = 60  # seconds without a byte
TRIES = 3


def local_path(url: str) -> Path:
    """Return the path of a `file://` address."""
    return Path(url2pathname(urlsplit(url).path))


class _Incoming:
    """The copying of one file's bytes into the store, with their checksum taken on the way."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.scratch = store.root / "incoming"

    def take(self, stream: IO[bytes]) -> Content:
        """Keep a stream's bytes, whatever they are, and return what they are."""
        self.store.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with self.scratch.open("wb") as target:
            while chunk := stream.read(CHUNK):
                put(target, chunk)
                digest.update(chunk)
                size += len(chunk)
        content = Content(digest.hexdigest(), size)
        self.store.put(self.scratch, content)
        return content


class DirectorySource(Source):  # type: ignore[misc]
    """A directory of the host that fetches. Its files are copied, and are never changed."""

    def __init__(self, said: dict[str, Any], order: Order, store: Store, token: str | None) -> None:
        """Use the directory at the source's `file://` address."""
        super().__init__(said, order, store, token)
        self.root = local_path(self.url)

    def contents(self) -> dict[str, Content]:
        """Return what the given manifest says, or the one beside the directory."""
        if not self.root.is_dir():
            raise HostError(f"{self.root} is no directory of this host")
        beside = self.root.with_name(f"{self.root.name}.json")
        given: dict[str, Content] = self.order.given()
        if beside.is_file():
            told = parse_manifest(beside.read_bytes())
            return {n: c for n, c in told.items() if self.order.wants(n)}
        if not given:
            raise HostError(
                f"nothing says what the files of {self.root} must be: name them with size and"
                f" sha256 in the model's `files`, or put a snapshot's manifest at {beside}"
            )
        return given

    def fetch(self, missing: dict[str, Content]) -> str:
        """Copy the files."""
        incoming, wrong = _Incoming(self.store), []
        for name, content in missing.items():
            file = self.root / name
            try:
                if self.root.resolve() not in file.resolve().parents:
                    wrong.append(f"{name}: it leads outside of {self.root}")
                    continue
                with file.open("rb") as stream:
                    found = incoming.take(stream)
            except PlaceError:
                raise
            except OSError as error:
                wrong.append(f"{name}: {error.strerror}")
                continue
            if found != content:
                wrong.append(f"{name}: {found.size} bytes with sha256 {found.sha256}")
                self.store.path(found.sha256).unlink()
        return "\n".join(wrong)


class ArchiveSource(Source):  # type: ignore[misc]
    """A tar or zip archive, of the host or of a server. Only regular files come out of it.

    Its one top directory, if it has no more than that, is left out of the names. With its own
    SHA-256 it is proved as a whole; else only what the given manifest lists is taken out of it.
    """

    proof = "archive"
    limited = True

    def __init__(self, said: dict[str, Any], order: Order, store: Store, token: str | None) -> None:
        """Use the archive at the source's address."""
        super().__init__(said, order, store, token)
        self.sha256: str | None = said.get("sha256")
        self.remote = urlsplit(self.url).scheme != "file"
        self.name = posixpath.basename(urlsplit(self.url).path)
        self.file = order.partial / "archive" / self.name if self.remote else local_path(self.url)
        self.rate = Rate(order.limit)

    def contents(self) -> dict[str, Content]:
        """Have the archive, prove it, and unpack what is wanted into the store."""
        given: dict[str, Content] = self.order.given()
        if self.sha256 is None and not given:
            raise HostError(
                "nothing says what the archive must be: give its `sha256`, or the model's `files`"
            )
        if self.remote:
            self._download()
        if not self.file.is_file():
            raise HostError(f"{self.file} is no file of this host")
        if self.sha256 and (found := sha256_of(self.file)) != self.sha256:
            if self.remote:
                self.file.unlink()
            raise HostError(f"{self.name}: sha256 {found} instead of {self.sha256}")
        if self.sha256 is None:
            return given
        return self._unpack(None)

    def fetch(self, missing: dict[str, Content]) -> str:
        """Unpack what is missing."""
        found = self._unpack(set(missing))
        wrong = []
        for name, content in missing.items():
            if name not in found:
                wrong.append(f"{name}: the archive has no such file")
            elif found[name] != content:
                wrong.append(f"{name}: sha256 {found[name].sha256} instead of {content.sha256}")
                self.store.path(found[name].sha256).unlink(missing_ok=True)
        return "\n".join(wrong)

    def _download(self) -> None:
        """Fetch the archive; a part of it that is here already is not fetched again.

        Raises:
            HostError: it cannot be had.
        """
        self.file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        flaw = ""
        for _ in range(TRIES):
            try:
                resume(
                    self.url,
                    self.file,
                    SILENCE,
                    self.order.timeout,
                    rate=self.rate,
                    token=self.token,
                )
            except PlaceError:
                raise
            except (HostError, *TROUBLE) as error:
                flaw = explain(error)
            else:
                return
        raise HostError(f"{self.name}: {flaw}")

    def _unpack(self, only: set[str] | None) -> dict[str, Content]:
        """Unpack the files wanted into the store, or some of them, and return what they are.

        Raises:
            HostError: it is damaged, or has a name or a kind of file that is refused.
        """
        found: dict[str, Content] = {}
        incoming = _Incoming(self.store)
        try:
            with self._opened() as archive:
                names = archive.names()
                top = common_top(list(names.values()))
                self._require_room(archive, names, top, only)
                for member, path in names.items():
                    name = path[len(top) :]
                    if not self.order.wants(name) or (only is not None and name not in only):
                        continue
                    with archive.open(member) as stream:
                        found[name] = incoming.take(stream)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError) as error:
            raise HostError(f"{self.name} is damaged or no archive: {error}") from error
        return found

    def _require_room(
        self, archive: _Archive, names: dict[Any, str], top: str, only: set[str] | None
    ) -> None:
        """Refuse what cannot fit, before it is unpacked."""
        wanted = [
            member
            for member, path in names.items()
            if self.order.wants(path[len(top) :]) and (only is None or path[len(top) :] in only)
        ]
        need = sum(archive.size(member) for member in wanted)
        require_free(self.store.root, need, f"what {self.name} holds")

    def _opened(self) -> contextlib.AbstractContextManager[_Archive]:
        """Return the open archive, of either kind."""
        if zipfile.is_zipfile(self.file):
            return _opened_zip(self.file)
        return _opened_tar(self.file)

    def measure(self, contents: dict[str, Content]) -> tuple[int, int]:
        """Count the archive while it is fetched, and then what it holds."""
        if self.remote and not contents:
            return size_or_none(self.file) or 0, 0
        measured: tuple[int, int] = super().measure(contents)
        return measured


class _Archive:
    """An open archive: its regular files by what names them inside."""

    def names(self) -> dict[Any, str]:
        """Return the regular files' paths."""
        raise NotImplementedError

    def size(self, member: Any) -> int:
        """Return the bytes of a file, unpacked."""
        raise NotImplementedError

    def open(self, member: Any) -> IO[bytes]:
        """Return a file's bytes."""
        raise NotImplementedError


class _Tar(_Archive):
    def __init__(self, archive: tarfile.TarFile) -> None:
        self.archive = archive

    def names(self) -> dict[Any, str]:
        found = {}
        for member in self.archive.getmembers():
            if member.isdir():
                continue
            name = require_path(member.name.removeprefix("./"), "the archive")
            if not member.isreg():
                raise HostError(f"the archive has a link or device named {name!r}: only files pass")
            found[member] = name
        return found

    def size(self, member: Any) -> int:
        return int(member.size)

    def open(self, member: Any) -> IO[bytes]:
        stream = self.archive.extractfile(member)
        if stream is None:
            raise HostError(f"{member.name} cannot be read out of the archive")
        return stream


class _Zip(_Archive):
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive

    def names(self) -> dict[Any, str]:
        found = {}
        for member in self.archive.infolist():
            if member.is_dir():
                continue
            name = require_path(member.filename.removeprefix("./"), "the archive")
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in {0, stat.S_IFREG}:
                raise HostError(f"the archive has a link or device named {name!r}: only files pass")
            found[member] = name
        return found

    def size(self, member: Any) -> int:
        return int(member.file_size)

    def open(self, member: Any) -> IO[bytes]:
        return self.archive.open(member)


@contextlib.contextmanager
def _opened_zip(path: Path) -> Iterator[_Archive]:
    with zipfile.ZipFile(path) as archive:
        yield _Zip(archive)


@contextlib.contextmanager
def _opened_tar(path: Path) -> Iterator[_Archive]:
    with tarfile.open(path) as archive:
        yield _Tar(archive)


def common_top(names: list[str]) -> str:
    """Return the one directory that holds all files, with its slash; else nothing."""
    tops = {name.partition("/")[0] for name in names if "/" in name}
    inside = all("/" in name for name in names)
    return f"{tops.pop()}/" if inside and len(tops) == 1 else ""
