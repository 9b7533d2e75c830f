"""A model's files from Hugging Face or ModelScope, fetched by the hubs' own clients.

The hub's interface says what the files must be, where the inventory does not; the clients only
bring them. A client's home is made for one run and removed after it, so that no token stays.
"""

from __future__ import annotations

import base64
import glob
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urljoin, urlsplit

from ansible.module_utils.vllm_download import TROUBLE, explain, open_url, read_url
from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_model_source import Order, Source
from ansible.module_utils.vllm_model_store import Content, Store, blob_id, require_path
from ansible.module_utils.vllm_process import Finished, ca_environment, run

SILENCE = 60  # seconds without a byte
ANSWER_LIMIT = 64 << 20  # bytes
PAGES = 1000


class Listed(NamedTuple):
    """What a hub says of a file: size, and its SHA-256 or else git's name of its bytes."""

    size: int
    sha256: str | None
    blob: str | None


def split_url(url: str) -> tuple[str, str]:
    """Return the endpoint and the repository (OWNER/NAME) of a model's address.

    Raises:
        HostError: it names no repository.
    """
    parts = urlsplit(url)
    words = [word for word in parts.path.removesuffix(".git").split("/") if word]
    if len(words) < 2:  # noqa: PLR2004
        raise HostError(f"{url} names no repository: OWNER/NAME is expected at its end")
    before = words[:-2]
    if before[-1:] == ["models"]:  # as ModelScope's pages have it
        before = before[:-1]
    return "/".join([f"{parts.scheme}://{parts.netloc}", *before]), "/".join(words[-2:])


class HubSource(Source):  # type: ignore[misc]
    """What both hubs have in common."""

    proof = "hub"
    program = ""

    def __init__(self, said: dict[str, Any], order: Order, store: Store, token: str | None) -> None:
        """Use the repository that the source's URL names."""
        super().__init__(said, order, store, token)
        self.endpoint, self.repository = split_url(self.url)
        self.branch: str | None = said.get("branch")
        self.place = order.partial / f"client-{said['kind']}"
        self.files = self.place / "files"

    def listing(self) -> dict[str, Listed]:
        """Return the hub's files at the revision, by path.

        Raises:
            HostError: the hub does not answer, or not as expected.
        """
        raise NotImplementedError

    def command(self, names: list[str]) -> list[str]:
        """Return the client's command line, without a token."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return the client's environment, with the token."""
        raise NotImplementedError

    def part_of(self, name: str, content: Content) -> Path:
        """Return where the client looks for what it has begun of a file."""
        raise NotImplementedError

    def contents(self) -> dict[str, Content]:
        """Return the hub's files; what it tells no SHA-256 of is fetched for it."""
        given: dict[str, Content] = self.order.given()
        if self.branch:  # a branch moves: only what is given is taken from it
            return given
        found: dict[str, Content] = {}
        unknown: dict[str, Listed] = {}
        for name, listed in self.listing().items():
            if name.startswith("-"):  # the client would read it as one of its options
                raise HostError(f"the hub has a file named {name!r}, which is refused")
            if not self.order.wants(require_path(name, "the hub")):
                continue
            if listed.sha256:
                found[name] = Content(listed.sha256, listed.size)
            elif name in given:
                found[name] = given[name]
            else:
                unknown[name] = listed
        return {**found, **self._small(unknown)}

    def _small(self, unknown: dict[str, Listed]) -> dict[str, Content]:
        """Fetch the files that git keeps itself, and prove them by git's name of their bytes.

        Raises:
            HostError: naming every file that did not come whole.
        """
        if not unknown:
            return {}
        ended = self.download(sorted(unknown))
        found: dict[str, Content] = {}
        wrong: list[str] = []
        for name, listed in sorted(unknown.items()):
            file = self.files / name
            if not file.is_file() or file.is_symlink():
                wrong.append(f"{name}: it did not come")
            elif listed.blob is None:
                wrong.append(f"{name}: the hub tells no checksum of it; name it in `files`")
            elif file.stat().st_size != listed.size or blob_id(file) != listed.blob:
                file.unlink()
                wrong.append(f"{name}: other bytes than the hub says")
            else:
                found[name] = self.store.take(file)
        if wrong:
            raise HostError("\n  ".join([*wrong, *self._said(ended).splitlines()]))
        return found

    def download(self, names: list[str]) -> Finished:
        """Run the client for some files; what came is below `files`.

        Raises:
            HostError: the client is not there, or did not end in time.
        """
        self.files.mkdir(mode=0o755, parents=True, exist_ok=True)
        home = self.place / "home"
        home.mkdir(mode=0o700, exist_ok=True)
        env = {"HOME": str(home), "NO_COLOR": "1", **ca_environment(), **self.environment()}
        try:
            ended: Finished = run(
                self.command(names),
                timeout=self.order.timeout,
                env=env,
                cwd=home,
                pass_fds=[self.order.lock],
            )
        finally:
            shutil.rmtree(home, ignore_errors=True)
        return ended

    def client(self) -> str:
        """Return the client's path."""
        return str(self.order.clients / "bin" / self.program)

    def _said(self, ended: Finished) -> str:
        if ended.status == 0:
            return ""
        text = f"{self.program} said:\n{ended.tail(10)}"
        return text.replace(self.token, "(token)") if self.token else text

    def fetch(self, missing: dict[str, Content]) -> str:
        """Have the client fetch what is missing, and take in what is right."""
        ended = self.download(sorted(missing))
        wrong = []
        for name, content in missing.items():
            file = self.files / name
            if file.is_file() and not file.is_symlink():
                flaw = self.store.accept(file, content)
                wrong += [f"{name}: {flaw}"] if flaw else []
        return "\n".join([*wrong, self._said(ended)]).strip()

    def begun(self, contents: dict[str, Content]) -> dict[str, list[Path]]:
        """Return what the client has begun."""
        found: dict[str, list[Path]] = {}
        for name, content in contents.items():
            files = [self.part_of(name, content), self.files / name]
            found.setdefault(content.sha256, []).extend(f for f in files if f.is_file())
        return found

    def seed(self, contents: dict[str, Content]) -> None:
        """Put what has begun where the client looks for it."""
        for name, content in contents.items():
            part = self.store.part(content.sha256)
            if part.is_file():
                target = self.part_of(name, content)
                target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                part.replace(target)

    def ask(self, url: str) -> Any:
        """Return the JSON at an address of the hub.

        Raises:
            HostError: the hub does not answer with JSON.
        """
        try:
            return json.loads(read_url(url, SILENCE, ANSWER_LIMIT, self.token))
        except TROUBLE as error:
            raise HostError(self.refusal(error)) from error

    def refusal(self, error: Exception) -> str:
        """Return why the hub did not answer, with the way out."""
        hint = {
            401: "; the model may be gated: give the source a token",
            403: "; the token's owner must have been granted access to the model",
            404: f"; is there a commit {self.revision} of {self.repository}?",
        }.get(getattr(error, "code", 0), "")
        return f"{self.endpoint}: {explain(error)}{hint}"


class HuggingFaceSource(HubSource):
    """Hugging Face, or a mirror that speaks its interface, through `hf download`."""

    program = "hf"

    def listing(self) -> dict[str, Listed]:
        """Ask the tree of the commit, page by page."""
        url = f"{self.endpoint}/api/models/{self.repository}/tree/{self.revision}?recursive=true"
        found: dict[str, Listed] = {}
        for _ in range(PAGES):
            entries, following = self._page(url)
            for entry in entries:
                if entry.get("type") != "file":
                    continue
                lfs = entry.get("lfs") or {}
                sha256 = lfs.get("oid") or lfs.get("sha256")
                size = int(lfs.get("size", entry.get("size", 0)))
                found[str(entry["path"])] = Listed(size, sha256, entry.get("oid"))
            if following is None:
                return found
            url = urljoin(url, following)
        raise HostError(f"{self.endpoint} lists more pages than {PAGES}")

    def _page(self, url: str) -> tuple[list[dict[str, Any]], str | None]:
        try:
            with open_url(url, SILENCE, token=self.token) as answer:
                entries = json.loads(answer.read(ANSWER_LIMIT))
                link = answer.headers.get("Link") or ""
        except TROUBLE as error:
            raise HostError(self.refusal(error)) from error
        if not isinstance(entries, list):
            raise HostError(f"{self.endpoint} lists no files of {self.repository}")
        match = re.search(r'<([^>]+)>;\s*rel="next"', link)
        return entries, match.group(1) if match else None

    def command(self, names: list[str]) -> list[str]:
        """Return the command of `hf`."""
        words = [self.client(), "download", self.repository, *names]
        words += ["--revision", self.branch or self.revision, "--local-dir", str(self.files)]
        return [*words, "--max-workers", str(self.order.parallel)]

    def environment(self) -> dict[str, str]:
        """Return the environment of `hf`; Xet's own protocol is not spoken by the mirrors."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.place / "home"),
            "HF_TOKEN": self.token or "",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0" if self.token else "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": str(SILENCE),
        }

    def part_of(self, name: str, content: Content) -> Path:
        """Return the file whose name `hf` makes of the file's name and its ETag."""
        folder, _, last = name.rpartition("/")
        digest = hashlib.sha1(f"{last}.metadata".encode(), usedforsecurity=False).digest()
        short = base64.urlsafe_b64encode(digest).decode()
        place: Path = self.files / ".cache/huggingface/download" / folder
        return place / f"{short}.{content.sha256}.incomplete"


class ModelScopeSource(HubSource):
    """ModelScope through its own command line."""

    program = "modelscope"

    def listing(self) -> dict[str, Listed]:
        """Ask for the files of the commit; the hub tells the SHA-256 of each."""
        words = urlencode({"Revision": self.revision, "Recursive": "True"})
        url = f"{self.endpoint}/api/v1/models/{quote(self.repository)}/repo/files?{words}"
        answer = self.ask(url)
        data = answer.get("Data") if isinstance(answer, dict) else None
        entries = data.get("Files") if isinstance(data, dict) else None
        if not isinstance(entries, list) or not entries:
            said = answer.get("Message") if isinstance(answer, dict) else ""
            raise HostError(
                f"{self.endpoint} lists no files of {self.repository} at {self.revision}"
                + (f": {said}" if said else "")
            )
        return {
            str(one["Path"]): Listed(int(one["Size"]), one.get("Sha256") or None, None)
            for one in entries
            if one.get("Type") == "blob"
        }

    def command(self, names: list[str]) -> list[str]:
        """Return the command of `modelscope`; names are patterns to it."""
        words = [self.client(), "download", self.repository]
        words += ["--revision", self.branch or self.revision, "--local-dir", str(self.files)]
        words += ["--max-workers", str(self.order.parallel)]
        return [*words, "--include", *map(glob.escape, names)]

    def environment(self) -> dict[str, str]:
        """Return the environment of `modelscope`; a file is fetched in one piece, to be resumed."""
        home = str(self.place / "home")
        return {
            "MODELSCOPE_ENDPOINT": self.endpoint,
            "MODELSCOPE_API_TOKEN": self.token or "",
            "MODELSCOPE_HOME": home,
            "MODELSCOPE_CACHE": home,
            "MODELSCOPE_DOWNLOAD_PARALLEL_WORKERS": "1",
            "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false",
            "MODELSCOPE_DOWNLOAD_TIMEOUT": str(SILENCE),
            "TQDM_DISABLE": "1",
        }

    def part_of(self, name: str, content: Content) -> Path:
        """Return the file beside the final one."""
        del content
        place: Path = self.files / f"{name}.incomplete"
        return place
