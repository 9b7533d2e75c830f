"""A secret is where it is needed and nowhere else, after a whole run that printed all it can."""

import subprocess
from pathlib import Path

import pytest
from conftest import SSH

from vllm_ansible.paths import PROJECT

# All files but those that the kernel makes up.
SEARCH = (
    "grep --recursive --files-with-matches --fixed-strings --file=- --devices=skip"
    " --exclude-dir=proc --exclude-dir=sys"
)
NEEDED = {
    "key": {"/etc/vllm/api_key", "/etc/nginx/vllm/keys.map"},
    "environment": {"/etc/vllm/one.env"},
    "option": {"/etc/vllm/one.yaml"},
    "model": set(),
}
# What a host was after a run, kept for a way back: root's alone.
KEPT = "/var/lib/vllm/generations/"


def ask(text, *words):
    """Run a program that is told what to look for by its standard input; return what it prints."""
    done = subprocess.run(words, input=f"{text}\n", capture_output=True, text=True, check=False)
    # ssh's own failure; a search that finds nothing ends with 1.
    assert done.returncode != 255, done.stderr
    return done.stdout


def files_with(text, place="/", user="root"):
    """The server's files with a text that a user can read."""
    found = ask(text, *SSH, f"runuser -u {user} -- {SEARCH} {place} 2>/dev/null")
    return set(found.splitlines())


@pytest.fixture(params=NEEDED)
def secret(request, run):
    return request.param, run.secrets[request.param]


def test_no_run_prints_a_secret(run):
    for output in run.outputs:
        assert "ESTABLISH SSH CONNECTION" in output, "this was not -vvvv"
        for name, text in run.secrets.items():
            at = output.find(text)
            assert at < 0, (name, output[max(0, at - 1500) : at + 200].replace(text, "SECRET"))


def test_no_process_shows_a_secret_while_the_run_goes_on(run):
    for line in run.looks:
        looks, _, seen = line.partition(" ")
        assert int(looks) > 10
        assert seen == "set()"
    assert len(run.looks) == 2


@pytest.mark.usefixtures("instances")
def test_the_servers_files_have_it_only_where_it_is_needed(secret):
    name, text = secret
    found = files_with(text)
    assert {path for path in found if not path.startswith(KEPT)} == NEEDED[name]


def test_nobody_else_can_read_it(secret):
    assert files_with(secret[1], user="nobody") == set()
    # The engine is handed its environment by systemd, and reads its own options.
    allowed = NEEDED["option"] if secret[0] == "option" else set()
    assert files_with(secret[1], user="vllm") == allowed


def test_the_journal_systemd_and_the_processes_do_not_tell(secret, host):
    name, text = secret
    assert ask(text, *SSH, "journalctl --quiet --all | grep -cF --file=-") == "0\n"
    shown = host.check_output("systemctl show 'vllm@*' nginx; systemctl show-environment")
    assert "Environment" in shown
    assert text not in shown
    assert text not in host.check_output("runuser -u nobody -- ps axewww -o args")
    environ = ask(text, *SSH, "grep -lF --file=- /proc/[0-9]*/environ 2>/dev/null")
    owners = {ask("", *SSH, f"stat -c %U {path}").strip() for path in environ.split()}
    assert owners <= ({"vllm"} if name == "environment" else set())


def test_the_controller_keeps_none(secret):
    places = [PROJECT / ".cache", PROJECT / "artifacts", Path.home() / ".ansible"]
    there = [str(place) for place in places if place.exists()]
    assert ask(secret[1], "grep", "-rlF", "--file=-", *there) == ""


def test_the_search_finds_what_it_looks_for(secret):
    ask(secret[1], *SSH, "cat > /srv/there; chmod 0644 /srv/there")
    assert files_with(secret[1], "/srv", "nobody") == {"/srv/there"}
    ask("", *SSH, "rm /srv/there")
