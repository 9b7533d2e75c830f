"""A server that is none any more is like a machine that never was one, but for packages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from conftest import INVENTORY, play

from tests.machines import Machines

if TYPE_CHECKING:
    from conftest import Server

BARE = "bare"
# What every machine has of its own, what packages leave where they run, and Ansible's own folder.
OWN = (
    "/var/log", "/var/lib/apt", "/var/cache/apt", "/var/lib/dpkg", "/var/cache/debconf",
    "/var/cache/ldconfig", "/var/cache/man", "/root/.ansible", "/root/.ssh",
    "/tmp", "/var/tmp",  # noqa: S108
    "/proc", "/sys", "/run", "/dev", "/var/lib/systemd", "/etc/ssh", "/var/cache/fontconfig",
)  # fmt: skip
# Copies that the tools keep of the files before, and what Python has compiled of the system's.
PASSING = (
    "/etc/passwd-", "/etc/group-", "/etc/shadow", "/etc/gshadow", "/etc/.pwd.lock", "/etc/subuid",
    "/etc/subgid", "__pycache__", "/etc/hostname", "/etc/hosts", "/etc/machine-id",
    "/etc/systemd/network/10-lab.network", "/var/lib/nginx/",
    "/etc/gitconfig",  # git-lfs's package writes its lines in any order
    "../init.d/nginx",  # as its unit is, switched off
)  # fmt: skip
# nginx came with us, so that it is stopped and starts no more; a package of its own would.
SWITCHED_OFF = "/etc/systemd/system/multi-user.target.wants/nginx.service"


def files(host: Any) -> set[str]:
    """Every file with its type, mode, owner and target, and of what is configured its checksum."""
    skipped = " -o ".join(f"-path {one}" for one in OWN)
    find = f"find / -xdev \\( {skipped} \\) -prune -o"
    names = host.check_output(f"{find} -printf '%y %m %u %g %p %l\\n'")
    sums = host.check_output(
        f"{find} \\( -path '/etc/*' -o -path '/root/*' \\) -type f -exec sha256sum {{}} +"
    )
    lines = {*names.splitlines(), *sums.splitlines()}
    return {line for line in lines if not any(one in line for one in PASSING)}


@pytest.fixture(scope="module")
def bare(server: Server) -> set[str]:
    """The files of a machine that never was a server, with the server's packages."""
    machines = Machines(INVENTORY)  # whose files the connection needs
    machine = machines.host(BARE)
    names = " ".join(server.receipt()["os_packages"])
    machine.check_output(
        "printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d"
        " && apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy"
        f" --no-install-recommends {names} && rm /usr/sbin/policy-rc.d"
    )
    return files(machine)


def test_check_mode_says_what_would_go_and_touches_nothing(server: Server) -> None:
    before = files(server.host)
    text = play("playbooks/remove.yml", "--check", "--diff")
    assert "/opt/vllm/current" in text
    assert files(server.host) == before
    assert server.answers()


def test_without_a_yes_nothing_is_removed(server: Server) -> None:
    assert "Nothing was removed" in play("playbooks/remove.yml", fails=True)
    assert server.answers()


def test_somebody_s_files_in_our_directories_stay(server: Server, bare: set[str]) -> None:
    assert bare
    server.out("echo mine > /etc/vllm/notes.txt && mkdir -p /opt/miniconda3/envs/mine/bin")
    text = play("playbooks/remove.yml", "-e", "vllm_remove=yes")
    assert "/etc/vllm stays: there is something in it that is not ours: notes.txt" in text
    assert "/opt/miniconda3 stays: somebody has made environments in it: mine" in text
    assert "/srv/models stays" in text
    assert server.out("cat /etc/vllm/notes.txt") == "mine"
    assert server.out("ls /srv/models/tiny")
    assert not server.host.file("/var/lib/vllm/receipt.json").exists


def test_a_server_again_and_removed_with_its_models_is_like_a_bare_machine(
    server: Server, bare: set[str]
) -> None:
    # What stayed for somebody's sake would count as there before us, and stay again.
    server.out("rm -rf /etc/vllm /opt/miniconda3 /srv/models /var/lib/vllm /root/.zshrc")
    play("site.yml")
    assert server.answers()
    play("playbooks/remove.yml", "-e", "vllm_remove=yes", "-e", "vllm_remove_models=true")
    after = files(server.host)
    assert sorted(after - bare) == []
    assert [line for line in sorted(bare - after) if SWITCHED_OFF not in line] == []
    for name in ("passwd", "group"):
        assert "vllm" not in server.out(f"cat /etc/{name}")
    assert server.out("systemctl list-units --all --plain --no-legend 'vllm*' 'nginx*'") == ""


def test_a_second_removal_has_nothing_to_do() -> None:
    text = play("playbooks/remove.yml", "-e", "vllm_remove=yes")
    assert "changed=0" in text.partition("PLAY RECAP")[2]
