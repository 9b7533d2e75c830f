"""Images: one root tree per suite and set of packages, shared read-only by all machines."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from vllm_ansible.lab.certificates import host_bundle
from vllm_ansible.lab.errors import LabError
from vllm_ansible.lab.spec import CACHE_ROOT, LabSpec, MachineSpec
from vllm_ansible.lab.system import Progress, kill, processes, remove_tree, run

IMAGES = CACHE_ROOT / "images"
_HOOK = Path(__file__).with_name("image-hook.sh")
# A bare server as Debian's installer leaves it, as far as Ansible and SSH are concerned.
_BASE = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "libpam-systemd",
    "openssh-server",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
)
_TIMEOUT = 3600.0


@dataclass(frozen=True)
class Image:
    """An image as it is wanted; its name changes with everything that it is made of."""

    suite: str
    packages: tuple[str, ...]
    pip: tuple[str, ...]

    @classmethod
    def of(cls, lab: LabSpec, machine: MachineSpec) -> Image:
        """Return the image that a machine of a lab wants."""
        packages = set(_BASE) | set(machine.packages)
        if machine.pip:
            packages.add("python3-venv")
        return cls(lab.suite, tuple(sorted(packages)), machine.pip)

    @property
    def name(self) -> str:
        """Suite and a digest of the packages, the requirements and the recipe."""
        made_of = json.dumps([self.suite, self.packages, self.pip, _HOOK.read_text("utf-8")])
        return f"{self.suite}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def root_of(name: str) -> Path:
    """Return the root tree of the image of that name."""
    return IMAGES / name / "root"


def exists(name: str) -> bool:
    """Whether the image of that name is complete."""
    return root_of(name).is_dir()


def ensure(image: Image, progress: Progress) -> bool:
    """Build an image unless it is there.

    A build happens beside the images and is renamed when it is complete, so that a killed one
    is never used. The caller holds the lab's lock.

    Args:
        image: What is wanted.
        progress: Told what is going on.

    Returns:
        Whether it was built.

    Raises:
        LabError: mmdebstrap failed; the message has its last lines.
    """
    if exists(image.name):
        return False
    IMAGES.mkdir(mode=0o755, parents=True, exist_ok=True)
    _clear_away()
    extra = len(set(image.packages) - set(_BASE))
    progress(
        f"image {image.name}: building ({image.suite}"
        + (f", {extra} extra packages" if extra else "")
        + (f", {len(image.pip)} Python requirements" if image.pip else "")
        + "); once, it is kept"
    )
    begun, build = time.monotonic(), IMAGES / f".build-{image.name}-{os.getpid()}"
    build.mkdir(mode=0o755)
    try:
        _bootstrap(image, build / "root")
        words = {"suite": image.suite, "packages": image.packages, "pip": image.pip}
        (build / "image.json").write_text(json.dumps(words, indent=2) + "\n", encoding="utf-8")
        # The rename must not reach the disk before the files that it vouches for.
        os.sync()
        build.rename(IMAGES / image.name)
    except BaseException:
        remove_tree(build)
        raise
    progress(f"image {image.name}: built in {time.monotonic() - begun:.0f} s")
    return True


def _clear_away() -> None:
    """End and remove what a killed build left; its programs may have outlived it."""
    prefix = str(IMAGES / ".build-")
    kill(one for one in processes() if any(word.startswith(prefix) for word in one.argv))
    for left in IMAGES.glob(".build-*"):
        # A last child may still write there; the new build has a directory of its own.
        with contextlib.suppress(LabError):
            remove_tree(left)


def _bootstrap(image: Image, root: Path) -> None:
    bundle = host_bundle()
    try:
        run(
            "mmdebstrap",
            "--variant=minbase",
            "--mode=root",
            f"--include={','.join(image.packages)}",
            f"--customize-hook={_HOOK}",
            image.suite,
            root,
            env={
                "LAB_PIP": "\n".join(image.pip),
                "LAB_CA": str(bundle) if bundle else "",
            },
            timeout=_TIMEOUT,
        )
    except LabError as error:
        raise LabError(
            f"the image {image.name} could not be built; it needs Debian's archive"
            f"{' and the package index' if image.pip else ''} from here: {error}"
        ) from error
    root.chmod(0o755)
