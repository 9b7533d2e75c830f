"""Debian packages through the mirror: a proxy for the archives that apt names and no other."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.unit.test_mirror_site import ELSEWHERE, NAME, NGINX, WHEEL, Outside, world_at
from tests.unit.test_templates import render

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine")

DEB = "/debian/pool/main/g/g++/g%2b%2b_1%7e2_amd64.deb"
BY_HASH = f"/debian/dists/stable/main/binary-amd64/by-hash/SHA256/{'0a' * 32}"
RELEASE = "/debian/dists/stable/InRelease"


@pytest.fixture
def world(tmp_path):
    with world_at(tmp_path) as made:
        yield made


@pytest.fixture
def mirror(world):
    return world.mirror


def there(path, host=ELSEWHERE):
    """What apt writes into the request line when it asks a proxy."""
    return f"http://{host}:{Outside.port}{path}"


@pytest.mark.parametrize("path", [DEB, BY_HASH, "/other+repo/x/pool/a.deb"])
def test_a_package_is_fetched_once_however_many_ask(mirror, path):
    with ThreadPoolExecutor(5) as pool:
        bodies = list(pool.map(lambda _: mirror.body(there(path)), range(5)))
    assert bodies == [WHEEL] * 5
    # Asked as apt wrote it.
    assert Outside.asked == {path: 1}
    time.sleep(2.1)
    assert mirror.body(there(path)) == WHEEL
    assert Outside.asked == {path: 1}


def test_what_changes_under_its_name_is_asked_for_anew_when_it_is_old(mirror):
    mirror.body(there(RELEASE))
    mirror.body(there(RELEASE))
    assert Outside.asked[RELEASE] == 1
    time.sleep(2.1)
    mirror.body(there(RELEASE))
    assert Outside.asked[RELEASE] == 2


def test_a_redirect_is_followed_for_those_who_cannot(mirror):
    assert mirror.body(there("/debian/hop/x")) == WHEEL
    assert Outside.asked == {"/debian/hop/x": 1, "/files/demo%2Bcpu.whl": 1}


def test_what_was_served_is_served_while_the_outside_is_gone_and_after_a_restart(world):
    mirror = world.mirror
    # One of them by an address, the other by a name, which cannot be resolved then.
    both = [there(path, host) for host in (ELSEWHERE, NAME) for path in (DEB, RELEASE)]
    for url in both:
        assert mirror.body(url) == WHEEL
    time.sleep(2.1)
    world.outside_is_gone()
    for url in both:
        assert mirror.body(url) == WHEEL
    mirror.stop()
    mirror.start()
    for url in both:
        assert mirror.body(url) == WHEEL
    assert mirror.status(there("/debian/dists/never-asked", NAME)) >= 500
    assert mirror.status(there("/debian/pool/never-asked.deb")) >= 500


OUTSIDE_OF_IT = [
    # not an archive's path, host, port; no way round by dots
    "http://127.0.0.2:{port}/secret",
    "http://127.0.0.2:{port}/debian2/x",
    "http://127.0.0.2:{port}/debian/../secret",
    "http://127.0.0.2:{port}/debian/%2e%2e/secret",
    "http://127.0.0.2:1/debian/x",
    "http://127.0.0.2/debian/x",
    "http://127.0.0.3:{port}/debian/x",
    "http://localhost:{port}/debian/x",
    "http://example.com/debian/pool/x.deb",
]


@pytest.mark.parametrize("url", OUTSIDE_OF_IT)
def test_it_is_no_proxy_to_anywhere_else(mirror, url):
    assert mirror.status(url.format(port=Outside.port)) == 404
    assert not Outside.asked


def raw(mirror, text):
    """The status line that is answered to a request as it stands here."""
    with socket.create_connection(("127.0.0.1", mirror.port), 5) as connection:
        connection.sendall(text.replace("\n", "\r\n").encode())
        return connection.makefile("rb").readline().decode()


def test_two_hosts_in_one_request_lead_nowhere_and_no_tunnel_is_dug(mirror):
    allowed = f"{ELSEWHERE}:{Outside.port}"
    for line, host in (("/debian/x", "example.com"), ("http://example.com/debian/x", allowed)):
        answer = raw(mirror, f"GET {line} HTTP/1.1\nHost: {host}\nConnection: close\n\n")
        assert " 404 " in answer
    assert " 40" in raw(mirror, f"CONNECT {allowed} HTTP/1.1\nHost: {allowed}\n\n")
    assert not Outside.asked


def test_nothing_is_written_and_nothing_of_a_client_goes_outside(mirror):
    assert mirror.status(there(DEB), method="POST") == 405
    mirror.get(there(DEB), Authorization="Basic c2VjcmV0", Cookie="secret")
    assert not {"Authorization", "Cookie"} & set(Outside.headers_seen[0])


def test_an_archive_whose_name_leads_back_to_the_mirror_is_no_endless_loop(mirror):
    assert mirror.status(there(DEB), User_Agent="vllm-ansible") == 508
    assert not Outside.asked


def test_the_log_names_the_archive(mirror):
    mirror.body(there(DEB))
    (line,) = mirror.log()
    assert (line["host"], line["uri"], line["cache"]) == (ELSEWHERE, DEB, "MISS")


def test_without_archives_there_is_no_proxy_at_all():
    found = {"nameservers": [], "ipv6": False, "nginx": "1.22.1"}
    text = render("mirror", "vllm-mirror.conf.j2", mirror_found=found, mirror_archives=[])
    assert "archive" not in text
    assert text.count("\nserver {") == 1


def test_apt_asks_the_proxy_for_the_archives_listed_and_for_nothing_else():
    text = render(
        "os_packages",
        "vllm-mirror.conf.j2",
        os_packages_proxy="http://192.0.2.3:8080",
        os_packages_archives=["http://b.example:81/x", "http://a.example/y", "http://a.example/z"],
    )
    assert [line for line in text.splitlines() if not line.startswith("//")] == [
        'Acquire::http::Proxy::a.example "http://192.0.2.3:8080";',
        'Acquire::http::Proxy::b.example "http://192.0.2.3:8080";',
    ]
