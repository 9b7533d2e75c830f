"""Settings of this computer's kernel that a lab needs, and that the last lab sets back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vllm_ansible.lab.errors import LabError
from vllm_ansible.lab.spec import STATE_ROOT


@dataclass(frozen=True)
class Setting:
    """One number that must not be lower.

    Attributes:
        path: Where the kernel has it.
        least: What a lab needs.
        what: What people call it.
    """

    path: Path
    least: int
    what: str

    @property
    def before(self) -> Path:
        """What it was before the first lab; one file for all labs."""
        return STATE_ROOT / f"{self.path.name}.before"

    def read(self) -> int:
        """The number as it is."""
        return int(self.path.read_text(encoding="utf-8"))


FORWARD = Setting(Path("/proc/sys/net/ipv4/ip_forward"), 1, "forwarding (net.ipv4.ip_forward)")
# Machines share this computer's root user, and each takes about six: with the kernel's 128 the
# twentieth does not boot, and does not say why.
WATCHES = Setting(
    Path("/proc/sys/fs/inotify/max_user_instances"),
    1024,
    "places for systemd's watches (fs.inotify.max_user_instances)",
)
SETTINGS = (FORWARD, WATCHES)


def ensure() -> list[str]:
    """Raise what is too low.

    Returns:
        What was raised, in words.
    """
    made = []
    for one in SETTINGS:
        now = one.read()
        if now >= one.least:
            continue
        if not one.before.exists():
            one.before.write_text(f"{now}\n", encoding="utf-8")
        one.path.write_text(f"{one.least}\n", encoding="utf-8")
        made.append(one.what)
    return made


def restore(other_labs: Iterable[str]) -> list[str]:
    """Set back what was raised, unless another lab still needs it.

    Args:
        other_labs: Names of the labs that are still there.

    Returns:
        What was set back, in words.

    Raises:
        LabError: The kernel refused it.
    """
    if list(other_labs):
        return []
    gone = []
    for one in (setting for setting in SETTINGS if setting.before.exists()):
        was = one.before.read_text(encoding="utf-8").strip() or "0"
        try:
            one.path.write_text(f"{was}\n", encoding="utf-8")
        except OSError as error:
            raise LabError(f"{one.path} could not be set back to {was}: {error}") from error
        one.before.unlink()
        gone.append(f"{one.what} is {was} again")
    return gone
