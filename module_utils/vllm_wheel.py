"""What a wheel's name must say so that it is true: Python, processor, and the oldest glibc.

pip believes the name. A wheel built on a new system and called C(linux_x86_64) is installed on an
old one without a word, and dies there when it is first used.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ansible.module_utils.vllm_elf import is_elf, needs
from ansible.module_utils.vllm_errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# The oldest glibc that comes together with such a libstdc++ or libgcc, from auditwheel 6's
# manylinux-policy.json: distributions ship the three as one system.
COMPANIONS = {
    "GLIBCXX": [
        ((3, 4, 19), (2, 17)),
        ((3, 4, 22), (2, 24)),
        ((3, 4, 24), (2, 27)),
        ((3, 4, 28), (2, 31)),
        ((3, 4, 29), (2, 34)),
        ((3, 4, 30), (2, 35)),
        ((3, 4, 33), (2, 39)),
    ],
    "GCC": [
        ((4, 8, 0), (2, 17)),
        ((7, 0, 0), (2, 27)),
        ((12, 0, 0), (2, 35)),
        ((14, 0, 0), (2, 39)),
    ],
}
OLDEST = (2, 17)


class Truth(NamedTuple):
    """What was found in a wheel.

    Attributes:
        python: such as cp311-abi3, cp311-cp311 or py3-none.
        platform: such as manylinux_2_38_x86_64 or any.
        glibc: the oldest glibc that it runs on, such as 2.38; None where nothing is compiled.
        modules: extension modules, as paths in the wheel.
        needs: highest version per kind of symbol, and who asks for the glibc.
        libraries: libraries that are not in the wheel.
    """

    python: str
    platform: str
    glibc: str | None
    modules: list[str]
    needs: dict[str, Any]
    libraries: list[str]

    @property
    def tag(self) -> str:
        """The whole tag."""
        return f"{self.python}-{self.platform}"


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


def dotted(version: Iterable[int]) -> str:
    """Return a version as it is written."""
    return ".".join(str(part) for part in version)


def highest(versions: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the highest version per kind of symbol: GLIBC_2.38 is 2.38 of the kind GLIBC."""
    found: dict[str, tuple[int, ...]] = {}
    for word in versions:
        match = re.fullmatch(r"([A-Z]+)_(\d[\d.]*)", word)
        if match:
            kind, version = match.group(1), numbers(match.group(2))
            found[kind] = max(found.get(kind, ()), version)
    return found


def glibc_for(versions: Iterable[str], here: tuple[int, ...]) -> tuple[int, int]:
    """Return the oldest glibc of a system that has all these symbols.

    Args:
        versions: symbol versions such as GLIBC_2.38 and GLIBCXX_3.4.30.
        here: this system's glibc; what no table knows is taken to need a system as new as this.
    """
    found = highest(versions)
    wanted = max(OLDEST, found.get("GLIBC", OLDEST)[:2])
    for kind, table in COMPANIONS.items():
        if kind in found:
            fitting = [glibc for version, glibc in table if found[kind] <= version]
            wanted = max(wanted, fitting[0] if fitting else here[:2])
    return wanted[0], wanted[1]


def python_tag(modules: Iterable[str], python: str) -> str:
    """Return the part of the tag that speaks of Python, from the extension modules' names.

    Args:
        modules: file names such as _C.abi3.so or _C.cpython-311-x86_64-linux-gnu.so.
        python: version such as 3.11 that they were built with, and so the oldest one proved.

    Raises:
        HostError: a module is for another Python than the one it was built with.
    """
    own = f"cp{python.replace('.', '')}"
    abis = set()
    for name in modules:
        match = re.search(r"\.(?:(abi3)|cpython-(\d+\w*)-[^.]*)\.so$", name)
        if match is None:
            abis.add(own)  # a bare .so loads with any Python and promises none
        elif match.group(1):
            abis.add("abi3")
        else:
            abis.add(f"cp{match.group(2)}")
    strange = abis - {own, "abi3"}
    if strange:
        raise HostError(f"the wheel has modules for {', '.join(sorted(strange))}, not for {own}")
    if not abis:
        return "py3-none"
    return f"{own}-{own}" if own in abis else f"{own}-abi3"


def examine(root: Path, python: str, here: str) -> Truth:
    """Return what an unpacked wheel's tag must say.

    Args:
        root: directory that holds the wheel's content.
        python: version such as 3.11 it was built with.
        here: this system's glibc, such as 2.41.

    Raises:
        HostError: it holds files for several machines, or for another Python.
    """
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and is_elf(path)]
    found = {path: needs(path) for path in files}
    modules = [
        path.relative_to(root).as_posix()
        for path in files
        if re.search(r"\.(abi3|cpython-[^.]+)\.so$", path.name)
    ]
    if not files:
        return Truth(python_tag([], python), "any", None, [], {}, [])
    machines = {need.machine for need in found.values()}
    if len(machines) != 1:
        raise HostError(f"the wheel has files for several machines: {', '.join(sorted(machines))}")
    versions = {word for need in found.values() for word in need.versions}
    glibc = glibc_for(versions, numbers(here))
    asking = f"GLIBC_{dotted(glibc)}"
    carried = {path.name for path in files}
    described: dict[str, Any] = {kind: dotted(v) for kind, v in sorted(highest(versions).items())}
    described["by"] = [
        p.relative_to(root).as_posix() for p, n in found.items() if asking in n.versions
    ]
    return Truth(
        python=python_tag(modules, python),
        platform=f"manylinux_{glibc[0]}_{glibc[1]}_{machines.pop()}",
        glibc=dotted(glibc),
        modules=modules,
        needs=described,
        libraries=sorted({name for n in found.values() for name in n.libraries} - carried),
    )
