"""A wheel's tag follows from what its files need, a build's jobs from what the host has."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vllm_ansible.progress import building


@pytest.fixture
def wheel(module_util: Callable[[str], Any]) -> Any:
    return module_util("vllm_wheel")


@pytest.fixture
def elf(module_util: Callable[[str], Any]) -> Any:
    return module_util("vllm_elf")


@pytest.fixture
def unit(module_util: Callable[[str], Any]) -> Any:
    return module_util("vllm_build_unit")


@pytest.fixture
def error(module_util: Callable[[str], Any]) -> Any:
    return module_util("vllm_errors").HostError


@pytest.mark.parametrize(
    ("versions", "glibc"),
    [
        (["GLIBC_2.2.5", "GLIBC_2.38", "GLIBC_2.4"], (2, 38)),
        (["GLIBC_2.9", "GLIBC_2.28"], (2, 28)),  # numbers, not texts
        (["GLIBC_2.2.5"], (2, 17)),  # older ones are of no use to anyone
        (["GLIBC_2.34", "GLIBCXX_3.4.30"], (2, 35)),  # a libstdc++ comes with its glibc
        (["GLIBC_2.38", "GLIBCXX_3.4.29", "CXXABI_1.3.13"], (2, 38)),
        (["GLIBC_2.17", "GCC_14.0.0"], (2, 39)),
        (["GLIBC_2.17", "GLIBCXX_3.4.99"], (2, 41)),  # unknown: as new as this system
        (["LIBNUMA_1.1", "libnuma_1.2", "OMP_1.0"], (2, 17)),
        ([], (2, 17)),
    ],
)
def test_the_oldest_glibc_follows_from_the_symbols(
    wheel: Any, versions: list[str], glibc: tuple[int, int]
) -> None:
    assert wheel.glibc_for(versions, (2, 41)) == glibc


@pytest.mark.parametrize(
    ("names", "tag"),
    [
        (["_C.abi3.so", "_C_AVX2.abi3.so"], "cp311-abi3"),
        (["_C.cpython-311-x86_64-linux-gnu.so"], "cp311-cp311"),
        (["_C.abi3.so", "_moe.cpython-311-x86_64-linux-gnu.so"], "cp311-cp311"),
        (["_C.so"], "cp311-cp311"),
        ([], "py3-none"),
    ],
)
def test_the_python_tag_follows_from_the_modules_names(
    wheel: Any, names: list[str], tag: str
) -> None:
    assert wheel.python_tag(names, "3.11") == tag


def test_a_module_for_another_python_is_refused(wheel: Any, error: Any) -> None:
    with pytest.raises(error, match="modules for cp310, not for cp311"):
        wheel.python_tag(["_C.cpython-310-x86_64-linux-gnu.so"], "3.11")


def compiled() -> Path:
    """A module of this Python's own, as compiled a file as any."""
    folder = Path(sysconfig.get_path("stdlib")) / "lib-dynload"
    found = sorted(folder.glob("_ctypes.*.so"))
    if not found:
        pytest.skip("this Python has no compiled module in a file of its own")
    return found[0]


def test_the_needs_of_a_compiled_file_are_read(elf: Any) -> None:
    needs = elf.needs(compiled())
    assert needs.machine in elf.MACHINES.values()
    assert any(name.startswith("libc.so") for name in needs.libraries)
    assert any(word.startswith("GLIBC_2.") for word in needs.versions)


def test_a_file_that_was_cut_is_an_error(elf: Any, error: Any, tmp_path: Path) -> None:
    cut = tmp_path / "_C.abi3.so"
    cut.write_bytes(compiled().read_bytes()[:5000])
    with pytest.raises(error, match="damaged ELF file"):
        elf.needs(cut)
    cut.write_bytes(b"\x7fELF\x01rest")
    with pytest.raises(error, match="no ELF file of 64 bits"):
        elf.needs(cut)


def test_an_unpacked_wheel_is_examined_as_a_whole(wheel: Any, tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm/_C.abi3.so").write_bytes(compiled().read_bytes())
    (tmp_path / "vllm/__init__.py").touch()
    truth = wheel.examine(tmp_path, "3.11", "2.41")
    assert truth.modules == ["vllm/_C.abi3.so"]
    assert truth.tag.startswith("cp311-abi3-manylinux_2_")
    assert truth.platform.startswith(f"manylinux_{truth.glibc.replace('.', '_')}_")


def test_a_wheel_without_compiled_files_runs_anywhere(wheel: Any, tmp_path: Path) -> None:
    (tmp_path / "a.py").touch()
    assert wheel.examine(tmp_path, "3.11", "2.41").tag == "py3-none-any"


def test_files_of_two_machines_are_refused(wheel: Any, error: Any, tmp_path: Path) -> None:
    content = bytearray(compiled().read_bytes())
    (tmp_path / "a.abi3.so").write_bytes(content)
    content[0x12:0x14] = (22).to_bytes(2, "little")
    (tmp_path / "b.abi3.so").write_bytes(content)
    with pytest.raises(error, match="several machines"):
        wheel.examine(tmp_path, "3.11", "2.41")


@pytest.mark.parametrize(
    ("cores", "memory", "jobs"),
    [(2, 24000, 2), (64, 24000, 11), (8, 5000, 2), (1, 24000, 1), (16, 2560, 1)],
)
def test_jobs_are_as_many_as_cores_and_memory_allow(
    unit: Any, cores: int, memory: int, jobs: int
) -> None:
    assert unit.jobs_for(cores, memory, 2048) == jobs


def test_too_little_memory_for_one_compiler_is_refused(unit: Any, error: Any) -> None:
    with pytest.raises(error, match="2000 MiB of memory can be had, and one compiler needs 2048"):
        unit.jobs_for(8, 2000, 2048)


def test_the_memory_that_can_be_had_is_read(unit: Any, error: Any) -> None:
    assert unit.memory_mib("MemTotal: 9 kB\nMemAvailable:   2097152 kB\n") == 2048
    with pytest.raises(error, match="jobs"):
        unit.memory_mib("MemTotal: 9 kB\n")


@pytest.mark.parametrize(
    ("log", "progress"),
    [
        (b"", None),
        (b"running build_ext\n-- Configuring done\n", None),
        (b"[1/504] Building\n  [123/504] Building CXX object\n", {"done": 123, "total": 504}),
        (b"[9/10] Linking\nnote: a[1/2] is no step\n", {"done": 9, "total": 10}),
        (b"504] cut in the middle\n[7/9] x", {"done": 7, "total": 9}),
    ],
)
def test_the_last_step_of_a_log_is_found(
    unit: Any, log: bytes, progress: dict[str, int] | None
) -> None:
    assert unit.progress_of(log) == progress


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        ({"progress": None, "elapsed": 7}, "preparing, 7 s"),
        (
            {"progress": {"done": 126, "total": 504}, "elapsed": 600},
            "[126/504] 25 %, 10 min 0 s, about 30 min 0 s left",
        ),
        ({"progress": {"done": 504, "total": 504}, "elapsed": 3780}, "[504/504] 100 %, 1 h 3 min"),
    ],
)
def test_progress_is_told_as_people_say_it(seen: dict[str, Any], line: str) -> None:
    assert building(seen) == line


def test_a_failed_step_is_shown_though_a_traceback_follows_it(unit: Any) -> None:
    steps = [f"  [{n}/504] Building CXX object" for n in range(1, 99)]
    said = ["  FAILED: [code=1] a.o", "  g++ -c a.cpp", "  a.cpp:1: error: broken"]
    trace = [f"  File {n}" for n in range(60)]
    log = "\n".join([*steps, *said, *trace]).encode()
    shown = unit.last_lines(log, 40).splitlines()
    assert shown[:3] == said
    assert shown[20] == "[...]"
    assert shown[-1] == trace[-1]
    assert len(shown) == 41
    # What is near the end is shown as it stands.
    near = "\n".join([*steps, *said]).encode()
    assert unit.last_lines(near, 40).splitlines() == [*steps, *said][-40:]
