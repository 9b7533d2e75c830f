"""The systemd service as an operator meets it."""

import pytest
from conftest import INSTANCE, MODEL, SERVERS, UNIT

from tests.instances import MOST_EXPOSED, exposure

testinfra_hosts = SERVERS


@pytest.fixture(scope="module")
def properties(host):
    lines = host.check_output(f"systemctl show --all {UNIT}").splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def test_it_runs_and_is_enabled_at_boot(host):
    service = host.service(UNIT)
    assert service.is_running
    assert service.is_enabled


def test_systemctl_status_and_the_journal_speak_of_it(host):
    assert "active (running)" in host.check_output(f"systemctl status --no-pager {UNIT}")
    assert "Starting vLLM" in host.check_output(f"journalctl --no-pager -u {UNIT}")


def test_the_journal_has_neither_statistics_nor_questions_and_the_metrics_have_figures(host):
    journal = host.check_output(f"journalctl --no-pager -u {UNIT}")
    for words in ("throughput", "capital of France", "/v1/chat/completions HTTP"):
        assert words not in journal
    script = (
        "import socket; s = socket.socket(socket.AF_UNIX); "
        f"s.connect('/run/vllm/{INSTANCE}/api.sock'); "
        "s.sendall(b'GET /metrics HTTP/1.0\\r\\n\\r\\n'); "
        "print(s.makefile().read())"
    )
    metrics = host.check_output(f'python3 -c "{script}"')
    assert "vllm:generation_tokens_total{" in metrics


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("User", "vllm"),
        ("Group", "vllm"),
        ("Restart", "always"),
        ("KillMode", "mixed"),
        ("PrivateNetwork", "yes"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateDevices", "yes"),
        ("PrivateUsers", "yes"),
        ("CapabilityBoundingSet", ""),
        ("NRestarts", "0"),
    ],
)
def test_its_properties(properties, name, value):
    assert properties[name] == value


def test_the_engine_has_no_network(host, properties):
    inside = f"nsenter --net --target {properties['MainPID']}"
    links = host.check_output(f"{inside} ip -brief link").splitlines()
    assert [line.split()[0] for line in links] == ["lo"]
    assert host.check_output(f"{inside} ip route; {inside} ip -6 route show default") == ""
    listening = host.check_output(f"{inside} ss --no-header --listening --tcp --udp --numeric")
    places = {line.split()[4].rpartition(":")[0] for line in listening.splitlines()}
    assert places <= {"127.0.0.1", "[::1]"}


def test_its_processes_are_not_roots(host):
    users = host.check_output("ps -eo user:20,args --no-headers").splitlines()
    engine = [line.split()[0] for line in users if "/opt/vllm/" in line and "ps -eo" not in line]
    assert engine
    assert set(engine) == {"vllm"}


def test_the_socket_is_for_the_engine_and_its_group(host):
    socket = host.file(f"/run/vllm/{INSTANCE}/api.sock")
    assert socket.is_socket
    assert (socket.user, socket.group) == ("vllm", "vllm")
    assert socket.mode & 0o007 == 0
    assert host.file(f"/run/vllm/{INSTANCE}").mode == 0o750


@pytest.mark.parametrize(
    ("path", "user", "group", "mode"),
    [
        ("/etc/vllm", "root", "root", 0o755),
        (f"/etc/vllm/{INSTANCE}.yaml", "root", "vllm", 0o640),
        (f"/etc/vllm/{INSTANCE}.env", "root", "root", 0o600),
        (f"/etc/vllm/{INSTANCE}.logging.json", "root", "vllm", 0o640),
        ("/etc/systemd/system/vllm@.service", "root", "root", 0o644),
        (f"/var/cache/vllm/{INSTANCE}", "vllm", "vllm", 0o700),
        ("/var/lib/vllm/receipt.json", "root", "root", 0o600),
        ("/opt/miniconda3/.condarc", "root", "root", 0o644),
    ],
)
def test_owners_and_modes(host, path, user, group, mode):
    found = host.file(path)
    assert found.exists
    assert (found.user, found.group, found.mode) == (user, group, mode)


def test_it_is_well_hardened_while_it_answers(host, door):
    ask = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 64, "stream": True}
    with door.stream("POST", "/v1/completions", json=ask) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        figure, offenders = exposure(host, UNIT)
        said = [first, *lines]
    assert "data: [DONE]" in said
    assert figure <= MOST_EXPOSED, offenders
