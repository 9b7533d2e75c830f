"""The lab as its users have it: booted once for all tests here, removed at the end."""

import os
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
# Every file with its size, owner and mode, but for what a running system writes by itself.
EVERYTHING = (
    "find / -xdev -not -path '/var/log/*' -not -path '/tmp*' -not -path '/root/.ansible*'"
    " -not -path '/var/lib/systemd/*' -not -path '/run/*' -printf '%p %s %u %m\\n'"
    " | grep -v -E '^/(root|tmp|var/tmp|var/lib/dpkg|etc) ' | sort"
)


def run(*words, timeout=1500, **options):
    """Run a program of the project from its root, as a user would."""
    return subprocess.run(
        words,
        cwd=PROJECT,
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def on_host(*words, host="cpu1", **options):
    """Run a command on a machine of the lab."""
    return run("./scripts/lab", "ssh", host, "--", *words, timeout=900, **options)


@pytest.fixture(scope="session")
def check_run():
    """Check mode on machines that have just been booted: what it printed, and what it left."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    run("./scripts/lab", "down")
    booted = run("./scripts/lab", "boot")
    assert booted.returncode == 0, booted.stdout + booted.stderr
    before = on_host(EVERYTHING).stdout
    done = run("ansible-playbook", "site.yml", "-i", "inventories/lab", "--check", "--diff")
    return done, before, on_host(EVERYTHING).stdout


@pytest.fixture(scope="session")
def lab_up(check_run):
    """`scripts/lab up`, on machines that nothing but check mode has met: what it printed."""
    done = run("./scripts/lab", "up")
    yield done
    run("./scripts/lab", "down")
