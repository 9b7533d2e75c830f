"""Command line that makes the engine's lock files: every version pinned, once, for all hosts."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from vllm_ansible import paths
from vllm_ansible.data import project_data

app = typer.Typer(add_completion=False, rich_markup_mode=None)

# Left out for the CPU: built for CUDA they break transformers beside a +cpu torch; text needs none.
LEFT_OUT = ("torchaudio", "torchcodec", "torchvision")
# What torch's build for CUDA brings along and its build for CPU does not.
CUDA_ONLY = re.compile(r"(nvidia-|cuda-|triton==)")


@app.command()
def main(
    version: Annotated[str, typer.Argument(help="Version of vLLM, as in versions.yml.")],
    python: Annotated[str, typer.Option(help="Python of the environment.")] = "3.10",
    device: Annotated[str, typer.Option(help="cpu or gpu.")] = "cpu",
    find_links: Annotated[
        list[str] | None,
        typer.Option(help="Directory or page with the engine's wheel; repeatable."),
    ] = None,
    index: Annotated[
        list[str] | None, typer.Option(help="Index with the engine's wheel; repeatable.")
    ] = None,
) -> None:
    """Resolve vLLM's requirements and write vllm_ansible/locks/vllm-VERSION-DEVICE-pyPYTHON-*.txt.

    For the CPU two files are written: with torch from the default index (built for CUDA, which
    runs the CPU engine too) and, from the same resolution, with torch from the PyTorch CPU index.
    The engine's wheel for CPU comes from --find-links or --index. Exit status: 0 written, 1 failed.
    """
    known = project_data().versions.vllm.get(version)
    if known is None or device not in known.devices or not known.supports(python):
        raise typer.BadParameter(f"versions.yml knows no vLLM {version}, {device}, Python {python}")
    local = "+cpu" if device == "cpu" else ""
    sources = [word for link in find_links or [] for word in ("--find-links", link)]
    sources += [word for url in index or [] for word in ("--index", url)]
    left_out = LEFT_OUT if device == "cpu" else ()
    pins = resolve(f"vllm=={version}{local}", known.torch, python, sources, left_out)
    name = f"vllm-{version}-{device}-py{python}"
    what = f"vLLM {version}, {device}, Python {python}, x86_64"
    write(paths.LOCKS / f"{name}-default-index.txt", f"{what}, torch from the default index", pins)
    if device == "cpu":
        other = for_cpu_index(pins, known.torch)
        write(paths.LOCKS / f"{name}-cpu-index.txt", f"{what}, torch from the CPU index", other)


def resolve(
    engine: str, torch: str, python: str, sources: list[str], left_out: tuple[str, ...]
) -> list[str]:
    """All requirements of the engine with their versions, for x86_64 Linux with glibc 2.28.

    Args:
        engine: The engine's requirement.
        torch: torch's version; the wheel's own `+cpu` is overridden, as it is not on every index.
        python: Python's version.
        sources: uv's words for where else it finds wheels.
        left_out: Packages that are not wanted, whatever asks for them.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, overrides, excludes = (Path(folder, n) for n in ("in", "overrides", "excludes"))
        asked.write_text(f"{engine}\n", encoding="utf-8")
        overrides.write_text(f"torch=={torch}\n", encoding="utf-8")
        excludes.write_text("\n".join(left_out), encoding="utf-8")
        command = ["uv", "pip", "compile", str(asked), "--quiet", "--no-annotate", "--no-header"]
        command += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
        command += ["--overrides", str(overrides), "--excludes", str(excludes)]
        done = subprocess.run([*command, *sources], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        typer.echo(f"uv could not resolve {engine}:\n{done.stderr}", err=True)
        raise typer.Exit(1)
    return [line for line in done.stdout.splitlines() if "==" in line]


def for_cpu_index(pins: list[str], torch: str) -> list[str]:
    """The same pins with torch's build for CPU, and without what only its build for CUDA needs."""
    kept = [pin for pin in pins if not CUDA_ONLY.match(pin)]
    return [f"torch=={torch}+cpu" if pin == f"torch=={torch}" else pin for pin in kept]


def write(path: Path, what: str, pins: list[str]) -> None:
    """Writes one lock file, sorted."""
    head = [f"# {what}.", "# Made by scripts/lock-engine; installed with --no-deps."]
    pins = sorted(pins, key=lambda pin: pin.split("==")[0])
    path.write_text("\n".join([*head, *pins]) + "\n", encoding="utf-8")
    typer.echo(f"{path}: {len(pins)} packages")


if __name__ == "__main__":
    app()
