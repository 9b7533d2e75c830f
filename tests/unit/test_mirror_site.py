"""The mirror's nginx configuration, in a real nginx on loopback, before an outside with faults."""

import http.client
import http.server
import json
import re
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import pytest

from tests.unit.test_templates import render

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine")

WHEEL = bytes(range(256)) * 8000  # 2 MB
# The outside has another address than the mirror, as it has in life.
ELSEWHERE = "127.0.0.2"
NAME = "outside.example"
PROJECT = "demo/demo-1.0+cpu-py3-none-any.whl"


class Outside(http.server.BaseHTTPRequestHandler):
    """An index's file server, a channel, and (on a Unix socket) what proxpi answers."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[Counter[str]] = Counter()
    fault: str | None = None
    headers_seen: ClassVar[list[dict[str, str]]] = []
    version = b"1"
    port = 0

    def log_message(self, *words):
        pass

    def address_string(self):
        return "test"

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        Outside.asked[self.path] += 1
        Outside.headers_seen.append(dict(self.headers))
        port = Outside.port
        if Outside.fault == "cut" and "/files/" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", str(len(WHEEL)))
            self.end_headers()
            self.wfile.write(WHEEL[: len(WHEEL) // 2])
            self.close_connection = True
        elif Outside.fault and Outside.fault.isdigit():
            self.answer(int(Outside.fault), b"fault")
        elif self.path.startswith("/index/missing"):
            self.answer(404, b"not here")
        elif self.path.startswith("/index/") and self.path.endswith("/"):
            self.answer(200, b"page " + Outside.version, Content_Type="text/html", Vary="Accept")
        elif self.path.startswith("/index/"):
            # proxpi hands on the whole link of the page, with its checksum.
            there = f"http://{ELSEWHERE}:{port}/hop/demo%2Bcpu.whl?sign=a%2Fb#sha256=abc"
            self.answer(302, Location=there)
        elif "/hop/" in self.path:
            self.answer(307, Location="/files/demo%2Bcpu.whl#sha256=abc")
        elif self.path.startswith("/endless/"):
            self.answer(302, Location=f"http://{ELSEWHERE}:{port}/endless/x")
        elif self.path.endswith("repodata.json"):
            self.answer(200, b'{"version": ' + Outside.version + b"}", Set_Cookie="a=b")
        else:
            time.sleep(0.3)  # long enough that all clients have come
            self.answer(200, WHEEL, Cache_Control="no-store")


class Names(socketserver.BaseRequestHandler):
    """A name server that knows one name (RFC 1035: the question comes back, with an address)."""

    def handle(self):
        asked, socket_ = self.request
        end = asked.index(b"\0", 12) + 5
        header = asked[:2] + b"\x81\x80" + b"\0\1\0\1\0\0\0\0"
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(ELSEWHERE)
        socket_.sendto(header + asked[12:end] + answer, self.client_address)


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Mirror:
    """nginx with the rendered configuration, below a directory of its own."""

    def __init__(self, base: Path, files_port: int, names_port: int = 53):
        self.base, self.port = base, free_port()
        outside = f"http://{ELSEWHERE}:{files_port}"
        text = render(
            "mirror",
            "vllm-mirror.conf.j2",
            mirror_port=self.port,
            mirror_root=str(base),
            mirror_max_connections=64,
            mirror_indexes=[{"name": "default", "url": ""}],
            mirror_channels=[
                {"name": "main", "url": f"{outside}/pkgs/main/"},
                {"name": "named", "url": f"http://{NAME}:{files_port}/pkgs/named"},
            ],
            mirror_archives=[
                f"{outside}/debian",
                f"{outside}/other+repo/x",
                f"http://{NAME}:{files_port}/debian",
            ],
            mirror_found={
                "nameservers": [f"127.0.0.1:{names_port}"],
                "ipv6": False,
                "nginx": "1.22.1",
            },
        )
        text = text.replace("/run/proxpi/default", str(base)).replace("/var/log/nginx", str(base))
        self.whole = text
        # The system's certificates take nginx a second to read, for each place that uses them.
        self.text = re.sub(r"proxy_ssl_(trusted|verify)[^;]*;", "", text)
        self.text = self.text.replace("200 404 5m", "200 404 1s").replace("valid=300s", "valid=1s")
        (base / "site.conf").write_text(self.text)
        user = "user root;" if Path("/").owner() == "root" and base.owner() == "root" else ""
        (base / "nginx.conf").write_text(
            f"{user} daemon off; pid {base}/pid; error_log {base}/error.log;\n"
            f"events {{}} http {{ include {base}/site.conf; }}\n"
        )
        for name in ("store", "models", "cache"):
            (base / name).mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def argv(self, *words):
        return [str(NGINX), "-c", str(self.base / "nginx.conf"), "-e", str(self.base / "e"), *words]

    def start(self):
        self.process = subprocess.Popen(self.argv())
        for _ in range(100):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise AssertionError((self.base / "error.log").read_text())

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def get(self, path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        words = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=words)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body

    def body(self, path):
        answer, body = self.get(path)
        assert answer.status == 200, (path, answer.status, body)
        return body

    def status(self, path, **words):
        return self.get(path, **words)[0].status

    def log(self):
        time.sleep(0.1)
        lines = (self.base / "vllm-mirror.log").read_text().splitlines()
        return [json.loads(line) for line in lines]


class World:
    """The outside and the mirror; the outside can be taken away."""

    def __init__(self, base: Path):
        self.files = http.server.ThreadingHTTPServer((ELSEWHERE, 0), Outside)
        self.files.daemon_threads = True
        port = int(self.files.server_address[1])
        self.proxpi = UnixServer(str(base / "http.sock"), Outside)
        self.names = socketserver.ThreadingUDPServer(("127.0.0.1", 0), Names)
        for server in (self.files, self.proxpi, self.names):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        Outside.port = port
        self.mirror = Mirror(base, port, int(self.names.server_address[1]))
        Outside.asked, Outside.fault, Outside.headers_seen = Counter(), None, []
        Outside.version = b"1"

    def outside_is_gone(self):
        for server in (self.files, self.proxpi, self.names):
            server.shutdown()
            server.server_close()
        self.files = self.proxpi = None  # type: ignore[assignment]

    def end(self):
        self.mirror.stop()
        if self.files:
            self.outside_is_gone()


@contextmanager
def world_at(base):
    world = World(base)
    world.mirror.start()
    try:
        yield world
    finally:
        world.end()


@pytest.fixture
def world(tmp_path):
    with world_at(tmp_path) as made:
        yield made


@pytest.fixture
def mirror(world):
    return world.mirror


FILE = f"/pypi/default/simple/{PROJECT}"
PAGE = "/pypi/default/simple/demo/"
REPODATA = "/conda/main/noarch/repodata.json"


def test_nginx_accepts_the_configuration(tmp_path):
    mirror = Mirror(tmp_path, 9)
    (tmp_path / "site.conf").write_text(mirror.whole)
    ended = subprocess.run(mirror.argv("-t"), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_a_file_behind_redirects_is_fetched_once_and_whole(mirror):
    assert mirror.body(FILE) == WHEEL
    assert mirror.body(FILE) == WHEEL
    # Each address was asked as the redirect had written it, without the link's checksum.
    assert Outside.asked == {
        f"/index/{PROJECT}": 1,
        "/hop/demo%2Bcpu.whl?sign=a%2Fb": 1,
        "/files/demo%2Bcpu.whl": 1,
    }


def test_ten_clients_at_once_cost_one_download(mirror):
    with ThreadPoolExecutor(10) as pool:
        bodies = list(pool.map(lambda _: mirror.body(FILE), range(10)))
    assert all(body == WHEEL for body in bodies)
    assert Outside.asked["/files/demo%2Bcpu.whl"] == 1


def test_redirects_without_end_are_an_error(mirror):
    mirror.text = mirror.text.replace("/pkgs/main/$vllm_mirror_file", "/endless/$vllm_mirror_file")
    mirror.stop()
    (mirror.base / "site.conf").write_text(mirror.text)
    mirror.start()
    answer, body = mirror.get("/conda/main/noarch/x.conda")
    assert answer.status >= 300
    assert body != WHEEL
    assert Outside.asked.total() <= 6


def test_ranges_are_served_from_what_is_kept_and_on_the_way(mirror):
    for _ in range(2):
        answer, body = mirror.get(FILE, Range="bytes=1000-1999")
        assert answer.status == 206
        assert body == WHEEL[1000:2000]
    assert mirror.body(FILE) == WHEEL
    assert Outside.asked["/files/demo%2Bcpu.whl"] == 1


def test_half_a_file_is_not_kept(mirror):
    Outside.fault = "cut"
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        mirror.body(FILE)
    Outside.fault = None
    assert mirror.body(FILE) == WHEEL


def test_a_page_is_asked_for_anew_when_it_is_old(mirror):
    assert mirror.body(PAGE) == b"page 1"
    Outside.version = b"2"
    assert mirror.body(PAGE) == b"page 1"
    time.sleep(2.1)
    assert mirror.body(PAGE) == b"page 2"


@pytest.mark.parametrize("fault", ["403", "429", "500", "503"])
def test_an_old_page_is_better_than_a_refusal(mirror, fault):
    assert mirror.body(PAGE) == b"page 1"
    assert mirror.body(REPODATA) == b'{"version": 1}'
    time.sleep(2.1)
    Outside.fault = fault
    assert mirror.body(PAGE) == b"page 1"
    assert mirror.body(REPODATA) == b'{"version": 1}'


def test_all_that_was_served_is_served_while_the_outside_is_gone_and_after_a_restart(world):
    mirror = world.mirror
    # The last one's name cannot be resolved any more, which is another way of being gone.
    named = "/conda/named/noarch/repodata.json"
    paths = [PAGE, FILE, REPODATA, "/conda/main/noarch/x-1.0-0.tar.bz2", named]
    before = [mirror.body(path) for path in paths]
    assert mirror.status("/pypi/default/simple/missing/") == 404
    time.sleep(2.1)
    world.outside_is_gone()
    assert [mirror.body(path) for path in paths] == before
    mirror.stop()
    mirror.start()
    assert [mirror.body(path) for path in paths] == before
    # A client asks the next index only where this one is known not to have the package.
    assert mirror.status("/pypi/default/simple/missing/") == 404
    assert mirror.status("/pypi/default/simple/never-asked/") == 504
    assert mirror.status("/pypi/default/simple/demo/never-asked.whl") >= 500


def test_a_bundles_file_is_served_before_anything_is_asked(mirror):
    path = mirror.base / "store" / FILE.removeprefix("/")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"from a bundle")
    assert mirror.body(FILE) == b"from a bundle"
    assert not Outside.asked


def test_a_bundles_page_is_served_when_the_outside_is_gone(world):
    mirror = world.mirror
    page = mirror.base / "store" / PAGE.removeprefix("/") / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("a bundle's page")
    data = mirror.base / "store" / REPODATA.removeprefix("/")
    data.parent.mkdir(parents=True)
    data.write_text("a bundle's data")
    world.outside_is_gone()
    answer, body = mirror.get(PAGE)
    assert (answer.status, body) == (200, b"a bundle's page")
    assert mirror.body(REPODATA) == b"a bundle's data"
    # What a bundle's index lacks is not there: the client goes on to the next index.
    assert mirror.status("/pypi/default/simple/other/") == 404
    assert mirror.status("/pypi/other/simple/other/") == 404


def test_an_index_that_only_a_bundle_has_is_served(mirror):
    page = mirror.base / "store/pypi/engine/simple/vllm/index.html"
    page.parent.mkdir(parents=True)
    page.write_text("engines")
    assert mirror.body("/pypi/engine/simple/vllm/") == b"engines"
    assert mirror.status("/pypi/engine/simple/numpy/") == 404


def test_the_store_and_the_models_are_served_and_unfinished_files_are_not(mirror):
    for name in ("store/wheels/a.whl", "store/.wheel.tmp", "models/m/rev/.gitattributes"):
        path = mirror.base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (mirror.base / "models/m/rev.json").write_text("{}")
    (mirror.base / "models/m/.rev.partial").mkdir()
    (mirror.base / "models/m/.rev.partial/x").write_text("half")
    (mirror.base / "store/manifest.json").write_text('{"wheels/a.whl": {}}')
    assert mirror.body("/static/wheels/a.whl") == b"store/wheels/a.whl"
    assert mirror.body("/static/") == b'{"wheels/a.whl": {}}'
    assert mirror.body("/models/m/rev/.gitattributes") == b"models/m/rev/.gitattributes"
    assert mirror.body("/models/m/rev.json") == b"{}"
    assert mirror.status("/static/.wheel.tmp") == 404
    assert mirror.status("/models/m/.rev.partial/x") == 404
    assert mirror.status("/models/m/") == 403
    assert mirror.status("/static/../cache/files") in (400, 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_written(mirror, method):
    assert mirror.status(FILE, method=method) == 405
    assert mirror.status("/static/x", method=method) == 405
    assert not Outside.asked


def test_nothing_of_a_client_goes_outside(mirror):
    mirror.get(FILE, Authorization="Basic c2VjcmV0", Cookie="secret", User_Agent="me", Referer="x")
    for headers in Outside.headers_seen:
        assert not {"Authorization", "Cookie", "Referer"} & set(headers)
        assert headers["User-Agent"] == "vllm-ansible"


def test_wrong_bytes_that_were_kept_can_be_fetched_anew_from_the_machine_itself(mirror):
    assert mirror.body(REPODATA) == b'{"version": 1}'
    Outside.version = b"2"
    assert mirror.get(REPODATA, X_Mirror_Refresh="1")[1] == b'{"version": 2}'
    assert mirror.body(REPODATA) == b'{"version": 2}'


def test_the_log_tells_what_came_from_outside(mirror):
    mirror.body(FILE)
    mirror.body(FILE)
    first, second = mirror.log()
    assert first["cache"] == "MISS"
    assert sum(int(part) for part in first["upstream_bytes"].split(" : ")) > len(WHEEL)
    assert (second["cache"], second["upstream_bytes"]) == ("HIT", "")
    assert second["bytes"] > len(WHEEL)


def test_the_cache_is_bounded_and_keeps_off_the_disks_end():
    variables = {"mirror_max_gib": 7, "mirror_min_free_gib": 3}
    found = {"nameservers": [], "ipv6": True, "nginx": "1.22.1"}
    text = render("mirror", "vllm-mirror.conf.j2", mirror_found=found, **variables)
    assert "max_size=7g min_free=3g" in text
    assert "resolver " not in text
    # Ubuntu 22.04's nginx does not know the word.
    old = render(
        "mirror", "vllm-mirror.conf.j2", mirror_found={**found, "nginx": "1.18.0"}, **variables
    )
    assert "min_free" not in old


def test_names_are_asked_by_ipv6_only_where_that_leads_out():
    found = {"nameservers": ["192.0.2.1", "[2001:db8::1]"], "nginx": "1.22.1"}
    with_it = render("mirror", "vllm-mirror.conf.j2", mirror_found={**found, "ipv6": True})
    without = render("mirror", "vllm-mirror.conf.j2", mirror_found={**found, "ipv6": False})
    assert "resolver 192.0.2.1 [2001:db8::1] valid=300s;" in with_it
    assert "resolver 192.0.2.1 [2001:db8::1] valid=300s ipv6=off;" in without


def test_the_mirror_answers_on_its_own_addresses_only():
    found = {"nameservers": [], "ipv6": False, "nginx": "1.22.1"}
    text = render(
        "mirror",
        "vllm-mirror.conf.j2",
        mirror_found=found,
        mirror_listen=["192.0.2.7", "2001:db8::7"],
        mirror_archives=["http://deb.example.com/debian"],
    )
    listens = [line.strip() for line in text.splitlines() if line.strip().startswith("listen ")]
    assert set(listens) == {
        f"listen {address}:8080{words};"
        for address in ("192.0.2.7", "[2001:db8::7]")
        for words in ("", " default_server")
    }
