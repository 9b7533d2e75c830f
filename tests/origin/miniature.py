"""The miniature of vLLM's sources: as archives in a package index, and as a git repository.

Each comes twice: version 0.31.0 compiles, version 0.31.1 is broken on purpose. Beside them in the
index is a stand-in for torch, as a wheel.
"""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

from tests.origin import pure_wheel
from tests.origin.lfs_repository import _Git as Git
from tests.origin.workshop import describe

TESTS = Path(__file__).resolve().parents[1]
SOURCES = TESTS / "miniature"
GOOD, BROKEN = "0.31.0", "0.31.1"
SIMPLE, ONEDNN, REPOSITORY = "mini/simple", "mini/sources", "git/mini/vllm.git"
TORCH = "2.13.0+standin"
_DATE = 1_760_000_000


def make(staging: Path) -> dict[str, Any]:
    """Makes the index, oneDNN's archive and the repository.

    Args:
        staging: laid out as the origin's ``www``.

    Returns:
        Name, size and SHA-256 of both source archives by version, of oneDNN's and of the stand-in
        for torch, and the commits.
    """
    index = staging / SIMPLE / "vllm"
    described: dict[str, dict[str, Any]] = {}
    index.mkdir(parents=True)
    commits = {}
    repository = staging / REPOSITORY
    git = Git(repository)
    git("init", "--quiet", "--bare", "--initial-branch=main", "--template=", str(repository))
    for version in (GOOD, BROKEN):
        tree = staging / f"vllm-{version}"
        _tree(tree, version)
        archive = index / f"{tree.name}.tar.gz"
        _pack(tree, archive)
        described[version] = describe(archive)
        commits[version] = _commit(git, repository, tree, version)
    torch = _torch(staging / SIMPLE / "torch")
    offered = {"torch": [torch], "vllm": list(described.values())}
    pure_wheel.write_index(staging / SIMPLE, offered)
    sources = staging / ONEDNN
    sources.mkdir(parents=True)
    _pack(SOURCES / "onednn-source", sources / "onednn.tar.gz")
    git("config", "http.receivepack", "false")
    git("update-server-info")
    (repository / "index").unlink(missing_ok=True)
    onednn = describe(sources / "onednn.tar.gz")
    return {"sdists": described, "onednn": onednn, "torch": torch, "commits": commits}


def _torch(directory: Path) -> dict[str, Any]:
    """Packs the stand-in for torch as a wheel."""
    directory.mkdir(parents=True)
    info = f"torch-{TORCH}.dist-info"
    members = {
        "torch/__init__.py": (SOURCES / "torch/__init__.py").read_text(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {TORCH}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    return pure_wheel.pack(directory / f"torch-{TORCH}-py3-none-any.whl", info, members)


def _tree(tree: Path, version: str) -> None:
    """Copies the sources, with an error in them where they are to be broken."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".deps")
    shutil.copytree(SOURCES / "vllm-source", tree, ignore=ignored)
    shutil.copy(TESTS / "standins/engine.py", tree / "vllm/standin_engine.py")
    if version == BROKEN:
        module = tree / "csrc/module.cpp"
        module.write_text(module.read_text() + "\n#error broken on purpose\n")


def _pack(tree: Path, archive: Path) -> None:
    """Writes an archive that depends on the files alone."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as target:
        for path in sorted(tree.rglob("*")):
            info = target.gettarinfo(path, f"{tree.name}/{path.relative_to(tree).as_posix()}")
            info.mtime, info.uid, info.gid, info.uname, info.gname = _DATE, 0, 0, "", ""
            info.mode = 0o755 if path.is_dir() else 0o644
            with path.open("rb") if path.is_file() else io.BytesIO() as content:
                target.addfile(info, content)
    archive.write_bytes(gzip.compress(packed.getvalue(), mtime=0))


def _commit(git: Git, repository: Path, tree: Path, version: str) -> str:
    """Commits a tree of its own and gives it the version's tag."""
    (repository / "index").unlink(missing_ok=True)
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        blob = git("hash-object", "-w", "--no-filters", str(path))
        name = path.relative_to(tree).as_posix()
        git("update-index", "--add", "--cacheinfo", f"100644,{blob},{name}")
    commit = git("commit-tree", git("write-tree"), "-m", f"Miniature of vLLM {version}")
    git("update-ref", "refs/heads/main", commit)
    git("update-ref", f"refs/tags/v{version}", commit)
    return commit
