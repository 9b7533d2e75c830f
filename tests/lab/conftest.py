"""The lab as its users have it: booted once for all tests here, removed at the end."""

import os
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


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


def on_host(*words, host="cpu1"):
    """Run a command on a machine of the lab."""
    return run("./scripts/lab", "ssh", host, "--", *words, timeout=300)


@pytest.fixture(scope="session")
def lab_up():
    """`scripts/lab up` on a machine without a lab: what it printed."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    run("./scripts/lab", "down")
    done = run("./scripts/lab", "up")
    yield done
    run("./scripts/lab", "down")
