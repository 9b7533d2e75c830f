"""What a compiled file asks of the system that loads it, read from its ELF header.

Only what a wheel's tag depends on: the machine, the libraries by name, and the versions of their
symbols. Layout: System V ABI, and the Linux Standard Base's "Symbol Versioning".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from ansible.module_utils.vllm_errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"\x7fELF"
MACHINES = {21: "ppc64le", 22: "s390x", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
SHT_DYNAMIC, SHT_VERNEED = 6, 0x6FFFFFFE
DT_NEEDED = 1


class Needs(NamedTuple):
    """What one file asks for: its machine, libraries, and symbol versions such as GLIBC_2.38."""

    machine: str
    libraries: list[str]
    versions: list[str]


class Section(NamedTuple):
    """Kind, place and size in bytes of a section, and the section of its names."""

    kind: int
    offset: int
    size: int
    link: int


class _Image:
    """An ELF file of 64 bits in memory."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.path = path
        if self.data[:4] != MAGIC or self.data[4] != 2:  # noqa: PLR2004 - ELFCLASS64
            raise HostError(f"{path} is no ELF file of 64 bits")
        self.order = "<" if self.data[5] == 1 else ">"

    def unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + layout, self.data, offset)

    def sections(self) -> list[Section]:
        table = self.unpack("Q", 0x28)[0]
        size, count = self.unpack("HH", 0x3A)
        found = []
        for number in range(count):
            fields = self.unpack("IIQQQQIIQQ", table + number * size)
            found.append(Section(fields[1], fields[4], fields[5], fields[6]))
        return found

    def text(self, offset: int) -> str:
        return self.data[offset : self.data.index(b"\0", offset)].decode()

    def libraries(self, dynamic: Section, names: Section) -> list[str]:
        pairs = (
            self.unpack("QQ", at) for at in range(dynamic.offset, dynamic.offset + dynamic.size, 16)
        )
        return [self.text(names.offset + value) for tag, value in pairs if tag == DT_NEEDED]

    def versions(self, need: Section, names: Section) -> list[str]:
        found, at, following = [], need.offset, 1
        while following:
            _, count, _, first, following = self.unpack("HHIII", at)
            entry = at + first
            for _ in range(count):
                _, _, _, name, step = self.unpack("IHHII", entry)
                found.append(self.text(names.offset + name))
                entry += step
            at += following
        return found


def is_elf(path: Path) -> bool:
    """Whether a file is a compiled one."""
    with path.open("rb") as stream:
        return stream.read(4) == MAGIC


def needs(path: Path) -> Needs:
    """Return what a compiled file asks of the system.

    Raises:
        HostError: it is no ELF file of 64 bits, or a damaged one.
    """
    image = _Image(path)
    libraries: list[str] = []
    versions: list[str] = []
    try:
        number = image.unpack("H", 0x12)[0]
        sections = image.sections()
        for section in sections:
            if section.kind == SHT_DYNAMIC:
                libraries += image.libraries(section, sections[section.link])
            elif section.kind == SHT_VERNEED:
                versions += image.versions(section, sections[section.link])
    except (struct.error, IndexError, ValueError) as error:
        raise HostError(f"{path} is a damaged ELF file: {error}") from error
    machine = MACHINES.get(number, f"machine-{number}")
    return Needs(machine, sorted(set(libraries)), sorted(set(versions)))
