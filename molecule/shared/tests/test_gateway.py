"""The door: where it listens, what it lets through, and for whom."""

import httpx
import pytest
from conftest import PORT, SERVERS

testinfra_hosts = SERVERS


def test_it_listens_on_loopback_and_the_bridge_alone(host, address):
    listening = set(host.socket.get_listening_sockets())
    doors = {name for name in listening if name.startswith("tcp") and name.endswith(f":{PORT}")}
    assert doors == {f"tcp://127.0.0.1:{PORT}", f"tcp://{address}:{PORT}"}


def test_nothing_else_but_ssh_listens_on_the_network(host):
    open_ports = {
        name.rpartition(":")[2]
        for name in host.socket.get_listening_sockets()
        if name.startswith("tcp") and "127.0.0.1" not in name and "::1" not in name
    }
    assert open_ports == {"22", str(PORT)}


@pytest.mark.parametrize("route", ["/v1/models", "/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer sk-", "Basic Zm9v"])
def test_without_the_right_key_a_route_is_closed(address, route, header):
    headers = {"Authorization": header} if header else {}
    answer = httpx.get(f"http://{address}:{PORT}{route}", headers=headers, timeout=10)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "route",
    ["/metrics", "/tokenize", "/invocations", "/pooling", "/score", "/docs", "/", "/v1/../metrics"],
)
def test_routes_that_the_engine_does_not_guard_end_at_the_door(door, route):
    assert door.get(route).status_code == 404


def test_nginx_keeps_the_key_to_root(host, key):
    assert host.file("/etc/nginx/vllm").mode == 0o700
    keys = host.file("/etc/nginx/vllm/keys.map")
    assert (keys.user, keys.group, keys.mode) == ("root", "root", 0o600)
    assert key[3:] in keys.content_string


def test_the_key_is_for_root_alone(host):
    found = host.file("/etc/vllm/api_key")
    assert (found.user, found.group, found.mode) == ("root", "root", 0o600)


def test_the_key_is_nowhere_else(host, key):
    hidden = key[3:]
    assert hidden not in host.run("ps axww -o args").stdout
    assert hidden not in host.run("journalctl --no-pager --boot").stdout
    # What can be gone back to has it too, for root alone.
    assert host.file("/var/lib/vllm/generations").mode == 0o700
    places = "/etc /var/lib/vllm /var/log /run/vllm /opt/miniconda3/.condarc"
    found = host.run(f"grep -rlF --exclude-dir=generations -- {hidden} {places}")
    assert sorted(found.stdout.split()) == ["/etc/nginx/vllm/keys.map", "/etc/vllm/api_key"]
