"""The stand-in releases: wheels of pure Python called vllm, good ones and broken ones, in an index.

What each of them does: tests/standin/README.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.origin import pure_wheel

TESTS = Path(__file__).resolve().parents[1]
SOURCES = TESTS / "standin" / "vllm"
SIMPLE = "vllm/standin"
GOOD = ("0.30.0", "0.31.0", "0.31.1", "0.31.2")
BROKEN = {
    "0.31.91": "import",
    "0.31.92": "config",
    "0.31.93": "dies",
    "0.31.94": "never",
    "0.31.95": "refuses",
    "0.31.96": "empty",
}


def make(staging: Path) -> dict[str, Any]:
    """Makes a wheel of each release, and the index that offers them.

    Args:
        staging: laid out as the origin's ``www``.

    Returns:
        Name, size and SHA-256 of each wheel, by the release's version.
    """
    directory = staging / SIMPLE / "vllm"
    directory.mkdir(parents=True)
    releases = {**dict.fromkeys(GOOD, ""), **BROKEN}
    wheels = {version: _wheel(directory, version, fault) for version, fault in releases.items()}
    pure_wheel.write_index(staging / SIMPLE, {"vllm": list(wheels.values())})
    return wheels


def _wheel(directory: Path, version: str, fault: str) -> dict[str, Any]:
    """Packs one release; equal sources give equal bytes."""
    name = f"vllm-{version}+cpu"
    info = f"{name}.dist-info"
    members = {
        f"vllm/{path.relative_to(SOURCES).as_posix()}": path.read_text(encoding="utf-8")
        for path in sorted(SOURCES.rglob("*.py"))
    }
    members["vllm/fault.py"] = members["vllm/fault.py"].replace('FAULT = ""', f'FAULT = "{fault}"')
    members["vllm/standin_engine.py"] = (TESTS / "standins/engine.py").read_text(encoding="utf-8")
    members |= {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nvllm = vllm.entrypoints.cli.main:main\n",
    }
    return pure_wheel.pack(directory / f"{name}-py3-none-any.whl", info, members)
