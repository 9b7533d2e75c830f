"""What a host is, as the module `host_facts` reports it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Slice(BaseModel):
    """A MIG slice of a GPU; memory in MiB, as its name tells it. `index` counts within the GPU."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    uuid: str
    index: int
    memory_mib: int


class Gpu(BaseModel):
    """One GPU; memory in MiB, None where it is the host's own."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    uuid: str = ""
    memory_mib: int | None
    compute_capability: str
    mig: bool = False
    slices: list[Slice] = Field(default_factory=list)


class HostFacts(BaseModel):
    """Facts of one host; memory and disk in MiB, disk by mount-independent path."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    architecture: str = "x86_64"
    distribution: str = ""
    distribution_version: str = ""
    glibc: str | None = None
    python: str = ""
    systemd: int | None = None
    # Addresses that apt asks by plain HTTP, without a proxy or a password of the operator's.
    apt_archives: list[str] = Field(default_factory=list)
    # Usable processors; cores that run two threads count twice.
    cores: int = 1
    numa_nodes: int = 1
    # The processors' numbers by NUMA node and core.
    cpu_nodes: list[list[list[int]]] = Field(default_factory=list)
    cpu_flags: list[str] = Field(default_factory=list)
    memory_mib: int = 0
    disk_free_mib: dict[str, int] = Field(default_factory=dict)
    gpus: list[Gpu] = Field(default_factory=list)
    gpu_driver: str | None = None
    gpu_error: str | None = None
    # PCI addresses and numbers of NVIDIA's display devices, with or without a driver.
    nvidia_devices: list[str] = Field(default_factory=list)
    reachable: dict[str, bool] = Field(default_factory=dict)
    # Of the users that the inventory names, those who have no account.
    missing_users: list[str] = Field(default_factory=list)
    receipt: dict[str, Any] | None = None

    def nodes(self) -> list[list[list[int]]]:
        """The processors' numbers by NUMA node and core; where none were told, in one row."""
        if self.cpu_nodes:
            return self.cpu_nodes
        count = max(1, min(self.numa_nodes, self.cores))
        bounds = [self.cores * n // count for n in range(count + 1)]
        return [[[cpu] for cpu in range(*bounds[n : n + 2])] for n in range(count)]

    def receipt_content(self) -> dict[str, Any]:
        """What the host's receipt says was carried out; empty without one."""
        receipt = self.receipt or {}
        content = receipt.get("content", receipt)
        return content if isinstance(content, dict) else {}

    def installed_release(self) -> dict[str, Any]:
        """The release of the receipt; empty without one."""
        release = self.receipt_content().get("release")
        return release if isinstance(release, dict) else {}


# For a host that has not been asked: named as assumptions wherever they are used.
ASSUMED = HostFacts(
    distribution="Debian",
    distribution_version="12",
    glibc="2.36",
    cores=2,
    cpu_flags=["avx2", "avx512f"],
    memory_mib=16384,
    disk_free_mib={"/opt": 51200, "/srv": 51200, "/var": 51200},
)
