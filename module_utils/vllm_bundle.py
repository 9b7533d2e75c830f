"""A bundle: one tar archive whose every file is proved before any of it is used.

It begins with `bundle.json` (what it is, with a checksum over itself and one of the manifest) and
`manifest.json` (each file's size and SHA-256); the files follow in the manifest's order. It is not
compressed: wheels, packages and weights do not get smaller.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_files import CHUNK, as_json, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD, MANIFEST = "bundle.json", "manifest.json"
TOPS = ("models", "store")  # the directories of a mirror that a bundle fills
FORMAT = 1
WAY_OUT = "The archive is damaged; carry it over again, or make it anew. Nothing was changed."


def digest_of(content: dict[str, Any]) -> str:
    """Return the checksum of a bundle.json over all but itself."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(as_json(rest).encode()).hexdigest()


def damaged(archive: Path, flaw: str) -> HostError:
    """Return the error of an archive that is refused."""
    return HostError(f"{archive}: {flaw}. {WAY_OUT}", flaw=flaw)


def is_safe(name: str) -> bool:
    """Tell whether a path stays below one of a bundle's directories."""
    parts = name.split("/")
    return len(parts) > 1 and parts[0] in TOPS and not {"", ".", ".."} & set(parts)


def is_meant(name: str, only: list[str]) -> bool:
    """Tell whether a path is one of these, or below one of them; an empty list means all."""
    return not only or any(name == part or name.startswith(f"{part}/") for part in only)


def describe(source: Path, only: list[str]) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of each file that a bundle of a directory would have, by path.

    Args:
        source: the directory that holds `TOPS`.
        only: paths below it that are meant; all when empty.

    Raises:
        HostError: there is nothing, or something else than plain files.
    """
    found: dict[str, dict[str, Any]] = {}
    for top in TOPS:
        for path in sorted((source / top).rglob("*")):
            name = path.relative_to(source).as_posix()
            if (path.is_dir() and not path.is_symlink()) or not is_meant(name, only):
                continue
            if path.is_symlink() or not path.is_file():
                raise HostError(f"{path} is no regular file, and a bundle carries only such")
            if not path.name.endswith(".part"):
                found[name] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    absent = sorted(part for part in only if not any(is_meant(name, [part]) for name in found))
    if absent or not found:
        raise HostError(f"{source} lacks what shall be carried: {', '.join(absent or TOPS)}")
    return dict(sorted(found.items()))


def copy_proved(stream: Any, target: BinaryIO | None, said: dict[str, Any]) -> str | None:
    """Copy a file's bytes and return how they differ from what the manifest says; None if not."""
    digest, size = hashlib.sha256(), 0
    try:
        while piece := stream.read(CHUNK):
            digest.update(piece)
            size += len(piece)
            if target is not None:
                target.write(piece)
    except tarfile.TarError:
        return f"it breaks off after {size} of {said['size']} bytes"
    if size != said["size"]:
        return f"{size} bytes instead of {said['size']}"
    if digest.hexdigest() != said["sha256"]:
        return f"sha256 {digest.hexdigest()} instead of {said['sha256']}"
    return None


def write(archive: Path, source: Path, files: dict[str, Any], head: dict[str, Any]) -> None:
    """Write an archive.

    Args:
        archive: the file; it is not flushed or renamed here.
        source: the directory of the files.
        files: what `describe` returned.
        head: the content of bundle.json, without what is said of the files.

    Raises:
        HostError: a file changed meanwhile.
    """
    text = as_json(files).encode()
    content = {**head, "format": FORMAT, "files": len(files)}
    content["bytes"] = sum(said["size"] for said in files.values())
    content["manifest_sha256"] = hashlib.sha256(text).hexdigest()
    content["digest"] = digest_of(content)
    with tarfile.open(archive, "w") as tar:
        for name, data in ((HEAD, as_json(content).encode()), (MANIFEST, text)):
            tar.addfile(_info(name, len(data)), io.BytesIO(data))
        for name, said in files.items():
            with (source / name).open("rb") as stream:
                reader = _Proving(stream)
                tar.addfile(_info(name, said["size"]), reader)
            if reader.digest.hexdigest() != said["sha256"]:
                raise HostError(f"{source / name} changed while it was packed; pack again")


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


class _Proving:
    """A file that is hashed while something else reads it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read, as a file does."""
        piece = self.stream.read(size)
        self.digest.update(piece)
        return piece


class Archive:
    """An archive as it lies on the disk, with its head and manifest read and proved."""

    def __init__(self, path: Path) -> None:
        """Read what the archive says of itself.

        Raises:
            HostError: it is no bundle, or its head is damaged.
        """
        self.path = path
        try:
            with tarfile.open(path, "r:") as tar:
                head, manifest = (self._small(tar, name) for name in (HEAD, MANIFEST))
        except FileNotFoundError as error:
            raise HostError(f"{path}: there is no such archive") from error
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise damaged(path, f"it is no bundle, or its beginning is broken ({error})") from error
        self.head = self._json(head, HEAD)
        if self.head.get("digest") != digest_of(self.head):
            raise damaged(path, f"{HEAD} has other bytes than it was made with")
        if self.head.get("format") != FORMAT:
            raise HostError(f"{path} has format {self.head.get('format')}, and {FORMAT} is known")
        if hashlib.sha256(manifest).hexdigest() != self.head.get("manifest_sha256"):
            raise damaged(path, f"{MANIFEST} has other bytes than it was made with")
        self.files: dict[str, dict[str, Any]] = self._json(manifest, MANIFEST)
        unsafe = sorted(name for name in self.files if not is_safe(name))
        if unsafe:
            raise damaged(path, f"it names {unsafe[0]!r}, which would lead outside of the store")

    def _small(self, tar: tarfile.TarFile, name: str) -> bytes:
        info = tar.next()
        stream = tar.extractfile(info) if info is not None and info.name == name else None
        if stream is None:
            raise damaged(self.path, f"{name} is not where it must be")
        return stream.read()

    def _json(self, text: bytes, name: str) -> dict[str, Any]:
        try:
            content = json.loads(text)
        except ValueError as error:
            raise damaged(self.path, f"{name} is no JSON ({error})") from error
        if not isinstance(content, dict):
            raise damaged(self.path, f"{name} is no JSON object")
        return content

    def members(self) -> Iterator[tuple[str, Any]]:
        """Give each file's name and its open content, in the archive's order.

        Raises:
            HostError: naming what is in the archive and not in the manifest, or the other way.
        """
        waiting = dict.fromkeys(self.files)
        try:
            with tarfile.open(self.path, "r:") as tar:
                for info in tar:
                    if info.name in (HEAD, MANIFEST):
                        continue
                    if info.name not in waiting:
                        raise damaged(self.path, f"it has {info.name!r}, which {MANIFEST} does not")
                    if not info.isreg():
                        raise damaged(self.path, f"{info.name} is no regular file")
                    del waiting[info.name]
                    yield info.name, tar.extractfile(info)
        except (tarfile.TarError, EOFError, ValueError) as error:
            first = next(iter(waiting), "its end")
            raise damaged(self.path, f"it breaks off at {first} ({error})") from error
        if waiting:
            flaw = f"{len(waiting)} files are missing, the first is {next(iter(waiting))}"
            raise damaged(self.path, flaw)

    def verify(self, keep: Any = None) -> dict[str, bytes]:
        """Prove every file; return the bytes of those that `keep`, given a name, asks for.

        Raises:
            HostError: naming the first file that is not as the manifest says.
        """
        kept: dict[str, bytes] = {}
        for name, stream in self.members():
            target = io.BytesIO() if keep and keep(name) else None
            flaw = copy_proved(stream, target, self.files[name])
            if flaw:
                raise damaged(self.path, f"{name}: {flaw}")
            if target is not None:
                kept[name] = target.getvalue()
        return kept
