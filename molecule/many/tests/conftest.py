"""What the checks share: six instances, made by a run with secrets that prints all it can."""

import secrets
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

from tests.instances import Instance, play
from tests.machines import Machines
from vllm_ansible.lab import LabSpec
from vllm_ansible.lab.machine import Machine
from vllm_ansible.lab.ssh import command
from vllm_ansible.paths import PROJECT

INVENTORY = Path(__file__).resolve().parents[1] / "inventory"
NAMES = ("one", "two", "three", "four", "five", "six")
LOCKS = str(PROJECT / "tests" / "standin" / "locks")
_LAB = LabSpec.from_inventory(INVENTORY)
_MACHINES = Machines(INVENTORY)
# One connection for all that is asked; it ends with the machine.
_SHARED = ("ControlMaster=auto", "ControlPersist=yes", f"ControlPath={_LAB.state}/asked")
SSH = command(Machine(_LAB, _LAB.machine("cpu1")), *(f"-o{option}" for option in _SHARED))
WATCHED = "/run/watched"
# Looks at all processes until it is ended: as root at their arguments, as nobody at their
# environments too. What it looks for comes by standard input, so that it is in no argument itself.
WATCH = f"""
import glob, os, sys, time
wanted, looks, seen = sys.stdin.buffer.read().split(), 0, set()
nobody = os.fork() == 0
if nobody:
    os.setgid(65534); os.setuid(65534)
while not os.path.exists("{WATCHED}"):
    looks += 1
    for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ") * nobody:
        try:
            text = open(path, "rb").read()
        except OSError:
            continue
        if any(one in text for one in wanted):
            seen.add(text[:80])
    time.sleep(0.1)
print(looks, seen, flush=True)
if not nobody:
    os.wait()
"""


@dataclass
class Run:
    """The run that made the instances.

    Attributes:
        secrets: What must not be found, by what it is.
        folder: Where the words and the vault's password are.
        words: The inventory's words with the secrets in them, in a vault.
        outputs: All that each run printed.
        looks: What the processes showed while it ran, one line for each who looked.
    """

    secrets: dict[str, str]
    folder: Path
    words: dict[str, Any]
    outputs: list[str] = field(default_factory=list)
    looks: list[str] = field(default_factory=list)

    def again(self, *more, instances=None):
        """Run the chain with these words, or with others about the instances."""
        file = self.folder / "words.yml"
        said = self.words if instances is None else {**self.words, "vllm_instances": instances}
        file.write_text(yaml.safe_dump(said))
        extra = [f"--extra-vars=@{file}", f"--vault-password-file={self.folder / 'password'}"]
        output = play("site.yml", INVENTORY, *extra, *more, VLLM_ANSIBLE_LOCKS=LOCKS)
        self.outputs.append(output)


class _Sealed(str):
    """Text that is written as a vault's."""

    __slots__ = ()


yaml.SafeDumper.add_representer(
    _Sealed, lambda dumper, text: dumper.represent_scalar("!vault", str(text), style="|")
)


def words_with(sealed):
    """The inventory's words, with the secrets in them."""
    text = (INVENTORY / "group_vars" / "vllm" / "zz_instances.yml").read_text()
    one, *others = yaml.safe_load(text)["vllm_instances"]
    one |= {
        "env": {"HF_TOKEN": sealed["environment"]},
        "extra_args": {"hf-token": sealed["option"]},
    }
    gated = {"kind": "huggingface", "url": "https://hub.invalid/a/b", "token": sealed["model"]}
    source = {"kind": "files", "url": "{{ lab_origin_url }}/tiny/tiny-qwen2-vl/"}
    model = {"revision": "{{ standin_model.revision }}", "files": "{{ standin_model.files }}"}
    return {
        "vllm_instances": [one, *others],
        "vllm_models": {"tiny": {**model, "sources": [source, gated]}},
        "vllm_gateway": {
            "listen": ["127.0.0.1", "{{ lab_address }}"], "api_key": sealed["key"],
        },
    }  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def run(tmp_path_factory):
    """The whole chain on the bare machine, with secrets, at the highest verbosity."""
    folder = tmp_path_factory.mktemp("secrets")
    found = {name: secrets.token_hex(20) for name in ("key", "environment", "option", "model")}
    vault = VaultSecret(secrets.token_hex(8).encode())
    lock = VaultLib([("default", vault)])
    sealed = {name: _Sealed(lock.encrypt(text, vault).decode()) for name, text in found.items()}
    made = Run(found, folder, words_with(sealed))
    (folder / "password").write_bytes(vault.bytes)
    with subprocess.Popen(
        [*SSH, f"rm -f {WATCHED}; exec python3 -c '{WATCH}'"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as watch:  # fmt: skip
        watch.stdin.write("\n".join(found.values()))
        watch.stdin.close()
        try:
            made.again("-vvvv", "--diff")
        finally:
            subprocess.run([*SSH, f"touch {WATCHED}"], check=True)
        made.looks = watch.stdout.read().splitlines()
    return made


@pytest.fixture(scope="session")
def instances():
    """The six, by name, once they answer."""
    made = {
        name: Instance(_MACHINES, "cpu1", name, 8001 + index, "tiny")
        for index, name in enumerate(NAMES)
    }
    for one in made.values():
        one.ready(60)
    return made


@pytest.fixture(scope="session")
def host():
    """The server."""
    return _MACHINES.host("cpu1")
