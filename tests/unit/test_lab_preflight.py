"""What stops a lab before anything is made: everything at once, with a way out of each."""

import json
from ipaddress import IPv4Address

import pytest

from vllm_ansible.lab import LabSpec, PreflightError, network, operate, preflight, resolver


def quiet(text):
    """Progress that nobody reads."""


@pytest.fixture
def spec():
    return LabSpec.from_vars(
        {
            "cpu1": {
                "lab_name": "unittest",
                "lab_subnet": "10.97.56.0/24",
                "lab_address": "10.97.56.11",
                "lab_memory_mib": 0,
                "lab_disk_mib": 0,
            }
        }
    )


@pytest.fixture
def good(monkeypatch):
    """A computer without any problem."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(preflight, "missing_packages", list)
    monkeypatch.setattr(preflight, "_overlay_problems", list)
    monkeypatch.setattr(network, "ip", lambda *_words: [])
    monkeypatch.setattr(resolver, "servers", lambda _lab: [IPv4Address("9.9.9.9")])


def problems(spec, *, running=False):
    with pytest.raises(PreflightError) as caught:
        preflight.check(spec, quiet, running=running)
    return "\n".join(caught.value.problems)


def changed(spec, **words):
    return LabSpec(**{**spec.__dict__, **words})


def test_a_good_computer_passes(spec, good):
    preflight.check(spec, quiet, running=False)


def test_without_root_nothing_begins(spec, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(PreflightError, match="needs root"):
        operate.up(spec, quiet)
    with pytest.raises(PreflightError, match="needs root"):
        operate.down(spec, quiet)


def test_another_system_than_linux_is_named(spec, good, monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert "this is darwin" in problems(spec)


def test_too_little_memory_and_disk_are_told_together(spec, good):
    text = problems(changed(spec, memory_mib=10**8, disk_mib=10**8))
    assert "memory: " in text
    assert "lab_memory_mib" in text
    assert "disk: " in text
    assert "lab_disk_mib" in text


def test_a_lab_that_runs_is_not_refused_for_the_memory_it_uses(spec, good):
    preflight.check(changed(spec, memory_mib=10**8), quiet, running=True)


def test_missing_programs_are_named_with_their_packages(spec, good, monkeypatch):
    monkeypatch.setattr(preflight, "missing_packages", lambda: ["mmdebstrap", "nftables"])
    monkeypatch.setattr(preflight, "_is_debian", lambda: False)
    assert "mmdebstrap, nftables" in problems(spec)


def test_missing_debian_packages_are_installed_where_that_is_possible(spec, good, monkeypatch):
    calls: list[tuple[str, ...]] = []
    said: list[str] = []
    monkeypatch.setattr(preflight, "missing_packages", lambda: ["nftables"])
    monkeypatch.setattr(preflight, "_is_debian", lambda: True)
    monkeypatch.setattr(preflight, "run", lambda *argv, **_rest: calls.append(argv))
    preflight.check(spec, said.append, running=False)
    assert calls[-1][-1] == "nftables"
    assert "nftables" in said[0]


def test_nothing_is_installed_when_the_lab_is_refused_anyway(spec, good, monkeypatch):
    monkeypatch.setattr(preflight, "missing_packages", lambda: ["nftables"])
    monkeypatch.setattr(preflight, "_is_debian", lambda: True)
    monkeypatch.setattr(preflight, "run", lambda *argv, **_rest: pytest.fail(str(argv)))
    problems(changed(spec, memory_mib=10**8))


def test_programs_are_looked_for(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _tool: None)
    found = preflight.missing_packages()
    assert {"mmdebstrap", "systemd-container", "nftables", "iproute2", "openssh-client"} <= set(
        found
    )


@pytest.mark.parametrize(
    ("addresses", "routes", "where"),
    [
        (
            [{"ifname": "eth0", "addr_info": [{"local": "10.97.56.7", "prefixlen": 26}]}],
            [],
            "10.97.56.0/26 on eth0",
        ),
        ([], [{"dst": "10.0.0.0/8", "dev": "tun0"}], "10.0.0.0/8 on tun0"),
        (
            [],
            [{"dst": "10.97.56.9", "gateway": "192.0.2.1", "dev": "eth0"}],
            "10.97.56.9/32 on eth0",
        ),
    ],
)
def test_an_address_range_in_use_is_named(spec, good, monkeypatch, addresses, routes, where):
    def answer(*words):
        return addresses if "address" in words else routes if "route" in words else []

    monkeypatch.setattr(network, "ip", answer)
    text = problems(spec)
    assert "lab_subnet 10.97.56.0/24 is in use" in text
    assert where in text


def test_the_labs_own_bridge_is_no_conflict(spec, good, monkeypatch):
    own = {"ifname": "vl-unittest", "addr_info": [{"local": "10.97.56.1", "prefixlen": 24}]}
    away = {"dst": "default", "dev": "eth0"}
    route = {"dst": "10.97.56.0/24", "dev": "vl-unittest"}
    monkeypatch.setattr(
        network,
        "ip",
        lambda *words: [own] if "address" in words else [away, route] if "route" in words else [],
    )
    assert network.overlapping(spec) == []


def test_an_interface_that_has_the_bridges_name_is_left_alone(spec, good, monkeypatch):
    link = {"ifname": "vl-unittest", "linkinfo": {"info_kind": "dummy"}}
    monkeypatch.setattr(network, "ip", lambda *words: [link] if "link" in words else [])
    assert "vl-unittest exists and is no bridge" in problems(spec)


def test_a_lab_that_stands_elsewhere_must_go_down_first(spec, good, monkeypatch, tmp_path):
    monkeypatch.setattr(LabSpec, "state", tmp_path)
    (tmp_path / "lab.json").write_text(json.dumps({"subnet": "10.1.0.0/24"}))
    assert "scripts/lab down" in problems(spec)


def test_no_name_server_has_a_way_out(spec, good, monkeypatch):
    monkeypatch.setattr(resolver, "servers", lambda _lab: [])
    assert "lab_dns" in problems(spec)


def test_a_local_stub_is_replaced_by_the_servers_behind_it(spec, tmp_path):
    stub, uplink = tmp_path / "stub", tmp_path / "uplink"
    stub.write_text("# stub\nnameserver 127.0.0.53\noptions edns0\n")
    uplink.write_text("nameserver fe80::1%eth0\nnameserver 192.0.2.9\n")
    assert resolver.servers(spec, (stub, uplink)) == [IPv4Address("192.0.2.9")]
    assert resolver.servers(spec, (stub, tmp_path / "none")) == []
    told = changed(spec, dns=(IPv4Address("192.0.2.1"),))
    assert resolver.servers(told, (uplink,)) == [IPv4Address("192.0.2.1")]
