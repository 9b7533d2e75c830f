"""Whatever somebody changes by hand is named, repaired by the next run, and not lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from conftest import INVENTORY, PROJECT, play

if TYPE_CHECKING:
    from conftest import Server

SITE = "/opt/vllm/current/lib/python3.10/site-packages"
UNIT = "/etc/systemd/system/vllm@tiny.service"
INFO = f"{SITE}/stranger-1.0.dist-info"
STRANGER = f"""
mkdir {INFO} && echo > {SITE}/stranger.py
printf 'Metadata-Version: 2.1\\nName: stranger\\nVersion: 1.0\\n' > {INFO}/METADATA
printf 'stranger.py,,\\nstranger-1.0.dist-info/METADATA,,\\n' > {INFO}/RECORD
"""
MINE = f"""
mkdir -p {UNIT}.d && printf '[Service]\\nNice=5\\n' > {UNIT}.d/mine.conf
systemctl daemon-reload
"""
# What is done, and what it must be called: kind and subject, which may begin with `...`.
DAMAGE = [
    ("echo '# mine' >> /etc/vllm/tiny.yaml", {("file sha256", "/etc/vllm/tiny.yaml")}),
    ("chmod 0644 /etc/vllm/api_key", {("file mode", "/etc/vllm/api_key")}),
    ("echo MINE=1 >> /etc/vllm/tiny.env", {("file seal", "/etc/vllm/tiny.env")}),
    ("rm /etc/nginx/vllm/keys.map", {("file", "/etc/nginx/vllm/keys.map")}),
    (
        "echo '# Written by vllm-ansible' > /etc/vllm/forgotten.yaml",
        {("file not planned", "/etc/vllm/forgotten.yaml")},
    ),
    (
        "rm /opt/miniconda3/envs/vllm && ln -s /nowhere /opt/miniconda3/envs/vllm",
        {("link", "/opt/miniconda3/envs/vllm")},
    ),
    ("chmod 0755 /etc/nginx/vllm", {("directory mode", "/etc/nginx/vllm")}),
    (
        "ln -s ../sites-available/default /etc/nginx/sites-enabled/default",
        {("switched off", "/etc/nginx/sites-enabled/default")},
    ),
    ("gpasswd --delete www-data vllm", {("membership", "www-data")}),
    ("usermod --shell /bin/bash vllm", {("user shell", "vllm")}),
    ("rm /root/.zshrc", {("shell", "/root/.zshrc")}),
    ("dpkg --purge git-lfs", {("os package", "git-lfs")}),
    (
        STRANGER,
        {("package", f"...{one}") for one in ("/stranger.py", "/stranger-1.0.dist-info")},
    ),
    (f"echo /home > {SITE}/mine.pth", {("package", ".../mine.pth")}),
    (f"echo '# mine' >> {SITE}/vllm/__init__.py", {("package file", ".../vllm/__init__.py")}),
    (
        "cd /srv/models/tiny/*/ && printf X | dd of=model.safetensors bs=1 seek=64 conv=notrunc",
        {("model", ".../model.safetensors")},
    ),
    ("touch /srv/models/tiny/*/config.json", {("model touched", ".../config.json")}),
    ("systemctl disable nginx", {("unit", "nginx.service")}),
    (MINE, {("unit drop-in", f"{UNIT}.d/mine.conf")}),
    # After the last time that systemd reads its files.
    ("touch /etc/systemd/system/nginx.service.d/vllm.conf", {("unit reload", "nginx.service")}),
    ("touch /var/cache/vllm/tiny/ill", {("service ill", "vllm@tiny.service")}),
]


def look(*words: str) -> tuple[int, set[tuple[str, str]]]:
    """Run `scripts/drift` and return its status, and kind and subject of what differs."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "MOLECULE_"))}
    locks = str(PROJECT / "tests/standin/locks")
    ended = subprocess.run(
        [sys.executable, "-m", "vllm_ansible.cli.drift", "-i", str(INVENTORY), "--json", *words],
        cwd=PROJECT, env={**kept, "VLLM_ANSIBLE_LOCKS": locks, "PYTHONPATH": str(PROJECT)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.stdout, ended.stderr
    hosts = {one["host"]: one for one in json.loads(ended.stdout)["hosts"]}
    found = [one for part in hosts["cpu1"]["parts"] for one in part["differences"]]
    return ended.returncode, {(one["kind"], one["subject"]) for one in found}


def like(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The subjects below the release and the model, as the table of damages has them."""
    places = (("/site-packages/", "/"), ("/models/tiny/", "/"))
    shown = set()
    for kind, subject in found:
        for mark, sep in places:
            if mark in subject:
                rest = subject.partition(mark)[2]
                rest = rest if mark != "/models/tiny/" else rest.partition(sep)[2]
                subject = f".../{rest}"  # noqa: PLW2901
        shown.add((kind, subject))
    return shown


def listing(server: Server) -> str:
    """What a look might have changed: every file's time of change, but for those of logs."""
    places = ("/proc", "/sys", "/run", "/dev", "/var/log", "/tmp")  # noqa: S108
    skipped = " -o ".join(f"-path {one}" for one in places)
    return server.out(f"find / -xdev \\( {skipped} \\) -prune -o -printf '%C@ %m %u %g %p %l\\n'")


def test_a_quiet_server_differs_in_nothing_and_a_look_changes_nothing(server: Server) -> None:
    play("site.yml")
    look()
    before = listing(server)
    assert look() == (0, set())
    changed = set(listing(server).splitlines()) ^ set(before.splitlines())
    assert {line for line in changed if "/root/.ansible" not in line} == set()


def test_each_change_by_hand_is_named_by_what_it_is(server: Server) -> None:
    for command, _ in DAMAGE:
        server.out(command)
    status, found = look()
    assert status == 3
    expected = set().union(*(names for _, names in DAMAGE))
    assert like(found) == expected


def test_the_next_run_repairs_all_of_it_and_keeps_what_was_somebody_s(server: Server) -> None:
    before = server.process("tiny")
    play("site.yml")
    assert look() == (0, set())
    assert server.process("tiny") != before
    assert server.answers()
    kept = server.out("find /var/lib/vllm/set-aside -type f")
    for name in ("mine.conf", "mine.pth", "vllm/__init__.py"):
        assert name in kept
    assert "mine" in server.out("cat $(find /var/lib/vllm/set-aside -path '*/vllm/__init__.py')")
    text = play("site.yml")
    assert "changed=0" in text.partition("PLAY RECAP")[2]


def test_units_that_are_replaced_masked_or_stopped_are_ours_again(server: Server) -> None:
    """Together with a package of conda's: by that a release is made anew."""
    server.out(f"cp /etc/systemd/system/vllm@.service {UNIT}")
    server.out("systemctl disable --now vllm@other && systemctl mask vllm@other")
    server.out("echo '{}' > /opt/vllm/current/conda-meta/stranger-1-0.json")
    server.out("systemctl daemon-reload")
    status, found = look()
    assert status == 3
    assert {(kind, subject.rpartition("/")[2]) for kind, subject in found} == {
        ("unit file", "vllm@tiny.service"), ("unit file", "vllm@other.service"),
        ("unit", "vllm@other.service"), ("conda package", "stranger-1-0.json"),
    }  # fmt: skip
    before = server.process("tiny")
    play("site.yml")
    assert look() == (0, set())
    assert server.process("tiny") != before
    for instance in ("tiny", "other"):
        assert server.answers(instance)


def test_what_hides_its_time_is_found_by_a_deep_look_and_a_cut_off_run_made_good(
    server: Server,
) -> None:
    """After a run that was cut off, what was repaired is right, and the process is not."""
    name = f"{SITE}/vllm/entrypoints/cli/main.py"
    server.out(f"cp -p {name} /root/old && echo '# mine' >> {name} && touch -r /root/old {name}")
    server.out("rm /root/old; sleep 3; touch /etc/vllm/other.yaml")
    stale = ("service stale", "vllm@other.service")
    assert look() == (3, {stale})
    status, found = look("--deep")
    assert status == 3
    assert like(found) == {stale, ("package file", ".../vllm/entrypoints/cli/main.py")}
    before = server.process("other")
    play("site.yml", "-e", "vllm_site_deep=true")
    assert look("--deep") == (0, set())
    assert server.process("other") != before
