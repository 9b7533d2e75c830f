"""One machine asked the outside, each thing once; the second server cost nothing outside."""

import json
from collections import Counter

import pytest
from conftest import address, machine

GIB = 1 << 30


def test_the_bad_sources_were_left_one_after_the_other(outside):
    tried = [
        (r["path"].split("/anaconda/")[0], r["status"])
        for r in outside
        if r["path"].endswith(".sh")
    ]
    assert [prefix for prefix, _ in tried] == ["/fault/banned", "/fault/cut", "/fault/wrong", ""]
    assert tried[0][1] == "403"


def test_only_the_mirror_host_asked_the_outside(outside):
    assert {request["client"] for request in outside} == {address("store")}


def test_each_file_came_from_outside_once(outside):
    files = Counter(r["path"] for r in outside if r["path"].endswith((".whl", ".conda")))
    assert files
    assert set(files.values()) == {1}


def bytes_for(served, name, key):
    """Sum what the mirror sent to a server, or fetched for it from outside."""
    total = 0
    for request in served:
        if request["client"] != address(name):
            continue
        if key == "sent":
            total += request["bytes"]
            continue
        upstreams = request["upstream"].replace(" : ", ", ").split(", ")
        counts = request["upstream_bytes"].replace(" : ", ", ").split(", ")
        total += sum(
            int(count)
            for upstream, count in zip(upstreams, counts, strict=True)
            if upstream and not upstream.startswith("unix:")
        )
    return total


def test_the_second_server_got_all_of_it_from_the_mirror_and_nothing_from_outside(served):
    first, second = (bytes_for(served, name, "sent") for name in ("cpu1", "cpu2"))
    assert second > GIB
    assert abs(first - second) < first * 0.02
    assert bytes_for(served, "cpu1", "outside") > GIB
    assert bytes_for(served, "cpu2", "outside") == 0


def packages(served, name):
    """What the mirror did about each Debian package that a server asked for."""
    asked = [r for r in served if r["client"] == address(name) and r["uri"].endswith(".deb")]
    return {request["uri"]: request["cache"] for request in asked}


def test_debian_s_packages_came_from_outside_once_and_for_the_second_server_not_at_all(served):
    first, second = (packages(served, name) for name in ("cpu1", "cpu2"))
    assert any("/nginx_" in uri or "/nginx-" in uri for uri in first)
    assert set(first.values()) == {"MISS"}
    assert set(second) == set(first)
    assert set(second.values()) == {"HIT"}


def test_a_server_s_apt_is_as_it_was_but_for_this_project_s_installations():
    machine_ = machine("cpu2")
    settings = machine_.check_output("apt-config dump Acquire::http")
    assert address("store") not in settings
    assert address("store") in machine_.file("/etc/apt/vllm-mirror.conf").content_string


def test_the_mirror_is_no_proxy_to_anywhere_else(store):
    code = (
        "import http.client as h; c = h.HTTPConnection('{}', 8080, timeout=9); "
        "c.request('GET', 'http://{}/anaconda/pkgs/main/noarch/repodata.json'); "
        "print(c.getresponse().status)"
    ).format(address("store"), address("origin"))
    assert store.check_output(f'python3 -c "{code}"') == "404"


@pytest.mark.parametrize("name", ["cpu1", "cpu2"])
def test_a_server_was_served_everything_that_it_asked_for(served, name):
    failed = [r for r in served if r["client"] == address(name) and r["status"] >= 500]
    assert failed == []


def test_the_second_server_runs_the_same_release():
    releases = {machine(name).file("/opt/vllm/current").linked_to for name in ("cpu1", "cpu2")}
    assert len(releases) == 1


def test_the_manifest_is_true(store):
    manifest = json.loads(store.file("/srv/mirror/store/manifest.json").content_string)
    assert manifest
    for name, said in manifest.items():
        found = store.file(f"/srv/mirror/store/{name}")
        assert found.size == said["size"]
        assert found.sha256sum == said["sha256"]


def test_the_services_came_back_by_themselves(store):
    for unit in ("nginx", "proxpi@default", "proxpi@engine"):
        assert store.service(unit).is_running
        assert store.service(unit).is_enabled
    assert store.check_output("systemctl is-system-running") == "running"


def test_the_mirror_listens_on_its_own_address_alone(store):
    sockets = store.check_output("ss -Hltn sport = :8080").split()
    assert f"{address('store')}:8080" in sockets
    assert "0.0.0.0:8080" not in sockets
