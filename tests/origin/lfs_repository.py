"""A bare git repository whose large files lie in the store of a git-lfs server.

The commit depends on the files alone: author, dates and message are fixed, and no setting of the
machine's git takes part. So the revision can be pinned in an inventory.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.origin.errors import OriginError
from tests.origin.workshop import sha256

# What repositories of models keep in LFS, as far as this one has it.
_LFS_SUFFIX = ".safetensors"
_DATE = "2025-02-07T00:00:00+0000"
_IDENTITY = {
    f"GIT_{role}_{word}": value
    for role in ("AUTHOR", "COMMITTER")
    for word, value in (("NAME", "vllm-ansible"), ("EMAIL", "lab@localhost"), ("DATE", _DATE))
}


def publish(files: Path, repository: Path, store: Path) -> dict[str, Any]:
    """Commits a directory's files into a new bare repository, large ones as LFS pointers.

    Args:
        files: the model's files; those for LFS are moved away into the store.
        repository: the bare repository to make.
        store: the LFS server's directory for this repository, one file per object.

    Returns:
        The revision, and size and SHA-256 of each file at it, pointers resolved.

    Raises:
        OriginError: git is missing or fails.
    """
    store.mkdir(parents=True)
    described: dict[str, dict[str, Any]] = {}
    (files / ".gitattributes").write_text(f"*{_LFS_SUFFIX} filter=lfs diff=lfs merge=lfs -text\n")
    for path in sorted(files.iterdir()):
        digest, size = sha256(path), path.stat().st_size
        described[path.name] = {"sha256": digest, "size": size}
        if path.suffix == _LFS_SUFFIX:
            shutil.move(path, store / digest)
            path.write_text(
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n"
            )
    return {"revision": _commit(files, repository), "files": described}


def _commit(files: Path, repository: Path) -> str:
    git = _Git(repository)
    git("init", "--quiet", "--bare", "--initial-branch=main", "--template=", str(repository))
    # The pointers are committed as they stand: no LFS filter may run over them.
    for path in sorted(files.iterdir()):
        blob = git("hash-object", "-w", "--no-filters", str(path))
        git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path.name}")
    tree = git("write-tree")
    commit = git("commit-tree", tree, "-m", "SmolLM2-135M-Instruct in bfloat16")
    git("update-ref", "refs/heads/main", commit)
    # A clone may ask for the pinned commit itself, also when the branch has moved on.
    git("config", "uploadpack.allowAnySHA1InWant", "true")
    git("config", "http.receivepack", "false")
    git("repack", "-a", "-d", "--quiet")
    git("update-server-info")
    (repository / "index").unlink(missing_ok=True)
    return commit


class _Git:
    """Runs git on one repository, deaf to the machine's and the user's configuration."""

    def __init__(self, repository: Path) -> None:
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "GIT_DIR": str(repository),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "HOME": tempfile.gettempdir(),
            **_IDENTITY,
        }

    def __call__(self, *words: str) -> str:
        try:
            done = subprocess.run(
                ["git", *words], env=self._environment, capture_output=True, text=True, check=True
            )
        except FileNotFoundError as error:
            raise OriginError("git is not on PATH: install it (apt-get install git)") from error
        except subprocess.CalledProcessError as error:
            raise OriginError(f"git {' '.join(words)}: {error.stderr.strip()}") from error
        return done.stdout.strip()
