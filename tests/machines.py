"""The lab's machines for Molecule's checks.

testinfra does not resolve templates in an inventory's connection variables, and the lab's are
templates; so addresses, key and host keys come from the lab's own reading of the inventory.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import testinfra

from vllm_ansible.lab import LabSpec


class Machines:
    """The machines of one inventory, reached by SSH as root.

    Args:
        inventory: The scenario's inventory directory.
    """

    def __init__(self, inventory: Path) -> None:
        self._lab = LabSpec.from_inventory(inventory)
        # Removed with this object: keep it as long as the connections.
        self._files = tempfile.TemporaryDirectory(prefix="vllm-checks-")
        self._config = Path(self._files.name) / "ssh_config"
        self._config.write_text(
            f"Host *\n  IdentityFile {self._lab.key}\n  IdentitiesOnly yes\n  BatchMode yes\n"
            f"  UserKnownHostsFile {self._lab.known_hosts}\n  StrictHostKeyChecking yes\n"
            f"  LogLevel ERROR\n  ControlPath {self._files.name}/%C\n",
            encoding="utf-8",
        )

    @property
    def names(self) -> list[str]:
        """The machines' names."""
        return [machine.name for machine in self._lab.machines]

    def address(self, name: str) -> str:
        """A machine's address on the lab's bridge."""
        return str(self._lab.machine(name).address)

    def place(self, name: str) -> str:
        """A machine as testinfra names hosts."""
        return f"ssh://root@{self.address(name)}?ssh_config={self._config}"

    def host(self, name: str) -> Any:
        """A machine as testinfra's host."""
        return testinfra.get_host(self.place(name))
