"""Each bad source ends in a clear error or the next source; what is in use stays untouched."""

import pytest
from conftest import MODEL, REVISION, SIZE, TRIES, fetch, files, git, state

pytestmark = pytest.mark.usefixtures("untouched")
WHOLE = {name: (said["size"], said["sha256"]) for name, said in MODEL["files"].items()}
OTHER_REPOSITORY = "modelscope/HuggingFaceTB/SmolLM2-135M-Instruct"
# Each source, and what its error must say.
REPOSITORIES = [
    (git("/fault/banned"), "403"),
    (git("/fault/gone"), "not found"),
    (git(repository=OTHER_REPOSITORY), REVISION),
    (git("/fault/stub"), "model-00001-of-00002.safetensors"),
    (git("/fault/short"), "model-00001-of-00002.safetensors"),
    (git("/fault/wrong"), "model-00002-of-00002.safetensors"),
    (git("/fault/missing"), "does not exist"),
    (git("/fault/vanish"), "model-0000"),
]
# As far as the client is another than git's.
PLAIN = [
    (files("/fault/banned"), "403"),
    (files("/fault/wrong"), "sha256"),
    (files("/fault/missing"), "model-00002-of-00002.safetensors: status 404"),
]


def found(host, name):
    """Size and SHA-256 of a snapshot's files, read from the disk."""
    path = f"{TRIES}/{name}/{REVISION}"
    lines = host.check_output(f"cd {path} && find . -type f -printf '%P\\n'").splitlines()
    return {
        one: (host.file(f"{path}/{one}").size, host.file(f"{path}/{one}").sha256sum)
        for one in lines
    }


@pytest.mark.parametrize(
    ("kind", "bad", "good"), [("git", REPOSITORIES, git()), ("files", PLAIN, files())]
)
def test_each_fault_is_told_and_the_next_source_taken(cpu1, kind, bad, good):
    sources = [source for source, _ in bad]
    tried = fetch(f"bad-{kind}", *sources)
    for source, said in bad:
        after = tried.failed.partition(f"{source['url']}: ")[2]
        assert after, f"{source['url']} is not told of: {tried.failed}"
        others = [after.find(f"{other['url']}: ") for other in sources if other != source]
        end = min((one for one in others if one >= 0), default=len(after))
        assert said in after[:end], source["url"]
    assert not cpu1.file(f"{TRIES}/bad-{kind}/{REVISION}").exists
    # Of what the bad ones have left, nothing harms.
    assert not fetch(f"bad-{kind}", sources[0], good).failed
    assert found(cpu1, f"bad-{kind}") == WHOLE


def test_a_model_that_lacks_a_shard_is_refused(cpu1):
    lacking = git(repository="models/lacking")
    failed = fetch("lacking", lacking, revision=MODEL["lacking"], files={}).failed
    assert "model-00002-of-00002.safetensors" in failed
    assert not cpu1.file(f"{TRIES}/lacking/{REVISION}").exists


def test_a_fetched_model_takes_its_size_on_the_disk_once(cpu1, figure):
    assert not fetch("clone", git()).failed
    used = int(cpu1.check_output(f"du --summarize --block-size=1 {TRIES}/clone").split()[0])
    figure(f"disk used after a git-lfs fetch / size of the model: {used / SIZE:.4f} (at most 1.05)")
    assert used / SIZE <= 1.05


def test_a_full_disk_is_told_before_anything_is_fetched(cpu1):
    cpu1.check_output("mkdir -p /srv/small && mount -t tmpfs -o size=40m tmpfs /srv/small")
    try:
        failed = fetch("full", git(), root="/srv/small").failed
        assert "free disk at /srv/small" in failed
        assert not cpu1.file(f"/srv/small/full/{REVISION}").exists
    finally:
        cpu1.check_output("umount /srv/small")


@pytest.mark.parametrize("kind", [git, files])
def test_a_disk_that_fills_up_meanwhile_ends_in_an_error_and_the_next_run_goes_on(cpu1, kind):
    cpu1.check_output("mkdir -p /srv/small && mount -t tmpfs -o size=220m tmpfs /srv/small")
    filled = []

    def fill(line):
        if "%" in line and not filled:
            filled.append(cpu1.run("dd if=/dev/zero of=/srv/small/ballast bs=1M"))

    try:
        failed = fetch("fills", kind("/fault/calm"), root="/srv/small", on_progress=fill).failed
        assert filled
        assert "the disk at /srv/small/fills is full" in failed
        assert not cpu1.file(f"/srv/small/fills/{REVISION}").exists
        cpu1.check_output("rm /srv/small/ballast")
        assert not fetch("fills", kind(), root="/srv/small").failed
    finally:
        cpu1.check_output("umount /srv/small")


def test_a_read_only_disk_is_told(cpu1):
    cpu1.check_output(
        "mkdir -p /srv/small && mount -t tmpfs -o size=220m tmpfs /srv/small"
        " && mount -o remount,ro /srv/small"
    )
    try:
        assert "Read-only file system" in fetch("ro", git(), root="/srv/small").failed
    finally:
        cpu1.check_output("umount /srv/small")


def test_a_snapshot_that_lost_a_bit_is_not_replaced_by_a_bad_source(cpu1):
    assert not fetch("harmed", files()).failed
    weights = f"{TRIES}/harmed/{REVISION}/model-00001-of-00002.safetensors"
    cpu1.check_output(f"truncate --size=-1 {weights}")
    before = state(cpu1, f"{TRIES}/harmed/{REVISION}")
    assert "model-00001" in fetch("harmed", files("/fault/wrong")).failed
    assert state(cpu1, f"{TRIES}/harmed/{REVISION}") == before
    assert not fetch("harmed", files("/fault/wrong"), files()).failed
    assert found(cpu1, "harmed") == WHOLE
