"""A token opens a gated model, and is in no output, no file and no argument of a process."""

import subprocess
import sys

from conftest import LAB, TRIES, fetch, fetching, git, snapshot

from vllm_ansible.lab.machine import Machine
from vllm_ansible.lab.ssh import command
from vllm_ansible.paths import PROJECT

sys.path.insert(0, str(PROJECT / "tests/origin/rootfs/usr/local/lib/origin"))
from faults import TOKEN

GATED = {**git("/fault/gated"), "credential": "lab"}
END = "/run/watched"
# Looks at the arguments of all processes until it is ended. What it looks for comes by standard
# input, so that it is in no argument itself.
WATCH = f"""
import glob, os, sys
token, looks, seen = sys.stdin.readline().strip().encode(), 0, set()
while not os.path.exists("{END}"):
    looks += 1
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            if token in open(path, "rb").read():
                seen.add(path)
        except OSError:
            pass
print(looks, len(seen))
"""
# All files but those that the kernel makes up.
SEARCH = (
    "grep --recursive --files-with-matches --fixed-strings --file=- --devices=skip"
    " --exclude-dir=proc --exclude-dir=sys /"
)
SSH = command(Machine(LAB, LAB.machine("cpu1")))


def ask(*words):
    """Run a program that is told the token by its standard input; return what it prints."""
    done = subprocess.run(words, input=f"{TOKEN}\n", capture_output=True, text=True, check=False)
    return done.stdout


def test_without_a_token_the_error_says_what_is_missing():
    failed = fetch("closed", git("/fault/gated")).failed
    assert "token" in failed, failed


def test_a_token_is_nowhere_but_where_it_is_needed(cpu1, tmp_path):
    cpu1.check_output(f"rm -f {END}")
    variables = {**snapshot("gated", GATED), "fetch_tokens": {"lab": TOKEN}}
    with subprocess.Popen(
        [*SSH, f"python3 -c '{WATCH}'"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as watch:
        watch.stdin.write(f"{TOKEN}\n")
        watch.stdin.flush()
        with fetching(tmp_path, variables, "-vvvv") as run:
            output = run.stdout.read()
            assert run.wait() == 0, output[-3000:]
        cpu1.check_output(f"touch {END}")
        looks, seen = map(int, watch.stdout.read().split())
    assert cpu1.file(f"{TRIES}/gated").is_directory
    assert looks > 10
    assert seen == 0
    assert TOKEN not in output
    assert ask(*SSH, SEARCH) == ""
    assert ask(*SSH, "journalctl --quiet --all | grep --fixed-strings --file=- --count") == "0\n"


def test_the_search_finds_what_it_looks_for(cpu1):
    ask(*SSH, "cat > /srv/there")
    assert ask(*SSH, SEARCH) == "/srv/there\n"
    cpu1.check_output("rm /srv/there")
