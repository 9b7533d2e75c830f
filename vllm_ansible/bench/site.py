"""The benchmark's inventories: the lab's own words, behind a mirror host, for some servers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import yaml

from vllm_ansible.bench.report import Install
from vllm_ansible.paths import PROJECT

LAB = PROJECT / "inventories" / "lab"
MINIATURE = PROJECT / "tests" / "miniature"
ORIGIN, STORE = "origin", "store"
ENGINES = {
    "source": "a miniature of vLLM 0.31.0's sources, which serves with a stand-in engine",
    "wheel": "vLLM 0.31.0's CPU wheel and the real model",
}
# Hosts of the subnet: the origin, the mirror host, and the first of the servers.
_ORIGIN, _STORE, _FIRST = 2, 3, 11
# MiB of memory and of disk that must be free before a lab is begun.
_MEMORY_BASE, _MEMORY_EACH = 3072, {"source": 512, "wheel": 2560}
_DISK_BASE, _DISK_EACH = 8192, {"source": 2048, "wheel": 5120}
# The miniature asks for g++ 12.3 as vLLM does, which Debian 12 has not.
_SUITES = {"source": "trixie", "wheel": "bookworm"}


@dataclass(frozen=True)
class Site:
    """A site to measure.

    Attributes:
        install: How the engine comes.
        name: The lab's name.
        subnet: The lab's network.
        most: Servers that it will have at the end: what must be free is for all of them.
    """

    install: Install
    name: str
    subnet: IPv4Network
    most: int

    def write(self, folder: Path, servers: int) -> Path:
        """Writes the inventory of the site with its first servers.

        Args:
            folder: Where the inventory's directory is made or changed.
            servers: How many of them there are.

        Returns:
            The inventory's directory.
        """
        inventory = folder / self.name
        variables = inventory / "group_vars"
        for name in ("lab_machines", "vllm"):
            (variables / name).mkdir(parents=True, exist_ok=True)
        links = {
            "lab_origin.yml": LAB / "group_vars/lab_origin.yml",
            "lab_machines/connection.yml": LAB / "group_vars/lab_machines/connection.yml",
            "vllm/lab.yml": LAB / "group_vars/vllm.yml",
        }
        for link, target in links.items():
            if not (variables / link).is_symlink():
                (variables / link).symlink_to(target)
        _write(variables / "lab_machines/lab.yml", self._lab())
        _write(variables / "mirror.yml", {"vllm_mirror": {"address": "{{ lab_address }}"}})
        if self.install == "source":
            # Read after lab.yml, whose words of the same names it replaces.
            _write(variables / "vllm/source.yml", _source())
        _write(inventory / "hosts.yml", self._hosts(servers))
        return inventory

    def environment(self, folder: Path) -> dict[str, str]:
        """Environment of a provisioning: nothing that the controller has kept is used.

        Args:
            folder: Where the site's own cache is.
        """
        words = {"VLLM_ANSIBLE_CACHE": str(folder / f"{self.name}-cache")}
        if self.install == "source":
            words["VLLM_ANSIBLE_LOCKS"] = str(MINIATURE / "locks")
        return words

    def _lab(self) -> dict[str, Any]:
        return {
            "lab_name": self.name,
            "lab_subnet": str(self.subnet),
            "lab_suite": _SUITES[self.install],
            "lab_memory_mib": _MEMORY_BASE + self.most * _MEMORY_EACH[self.install],
            "lab_disk_mib": _DISK_BASE + self.most * _DISK_EACH[self.install],
        }

    def _hosts(self, servers: int) -> dict[str, Any]:
        groups = {
            "lab_origin": {ORIGIN: self._at(_ORIGIN)},
            "mirror": {STORE: self._at(_STORE)},
            "vllm": {name: self._at(_FIRST + n) for n, name in enumerate(names(servers))},
        }
        children: dict[str, Any] = {name: {"hosts": hosts} for name, hosts in groups.items()}
        children["lab_machines"] = {"children": dict.fromkeys(groups)}
        return {"all": {"children": children}}

    def _at(self, number: int) -> dict[str, str]:
        return {"lab_address": str(self.subnet[number])}


def names(servers: int) -> list[str]:
    """The servers' names."""
    return [f"cpu{number}" for number in range(1, servers + 1)]


def _source() -> dict[str, Any]:
    """The lab's words, with the miniature in the place of vLLM's sources and of torch."""
    lab = yaml.safe_load((LAB / "group_vars/vllm.yml").read_text(encoding="utf-8"))
    sources = lab["vllm_sources"]
    packages = sources["packages"] | {"torch_indexes": ["{{ lab_origin_url }}/mini/simple/"]}
    onednn = {
        "urls": ["{{ lab_origin_url }}/mini/sources/onednn.tar.gz"],
        "sha256": "{{ lab_manifest.miniature.onednn.sha256 }}",
    }
    git = ["{{ lab_origin_url }}/mini/vllm.git"]
    return {
        "vllm_engine": lab["vllm_engine"] | {"install": "source", "source": "git"},
        "vllm_sources": sources | {"packages": packages, "onednn": onednn, "git": git},
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    # JSON is YAML.
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
