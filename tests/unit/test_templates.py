"""What the roles write: rendered by Ansible's own templating, read as its readers read it."""

import re
import shlex
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from vllm_ansible.paths import PROJECT
from vllm_ansible.plan import unit as of_unit
from vllm_ansible.schema.words import Instance

INSTANCES = [
    {"name": "chat", "port": 8000, "socket": "/run/vllm/chat/api.sock"},
    {"name": "code", "port": 8001, "socket": "/run/vllm/code/api.sock"},
]


def render(role, template, **variables):
    """Render a role's template with the role's defaults under the variables."""
    folder = PROJECT / "roles" / role
    defaults = yaml.safe_load((folder / "defaults" / "main.yml").read_text())
    templar = Templar(loader=DataLoader(), variables={**defaults, **variables})
    text = (folder / "templates" / template).read_text()
    # As the template module does it: backslashes in expressions are what they are.
    return templar.template(trust_as_template(text), escape_backslashes=False)


def directives(text):
    """Read a unit: {name: [values]}, without comments."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture(scope="module")
def unit():
    return directives(render("openai_server", "vllm@.service.j2"))


def test_the_unit_starts_the_release_in_use_with_the_instances_own_files(unit):
    assert unit["ExecStart"] == ["/opt/vllm/current/bin/vllm serve --config /etc/vllm/%i.yaml"]
    assert unit["EnvironmentFile"] == ["/etc/vllm/%i.env"]
    assert unit["User"] == ["vllm"]


def test_the_unit_comes_back_but_not_for_ever_even_when_a_start_takes_long(unit):
    assert unit["Restart"] == ["always"]
    starts, pause, interval = (
        int(unit[name][0]) for name in ("StartLimitBurst", "RestartSec", "StartLimitIntervalSec")
    )
    assert (starts, pause, interval) == (of_unit.STARTS, of_unit.PAUSE, of_unit.INTERVAL)
    # As long as an instance is given by default.
    slowest = Instance(name="a", model="m").ready_timeout
    assert starts * (slowest + pause) < interval


def test_a_stop_has_time_for_the_drain_and_closes_the_way_in_first(unit):
    assert unit["KillMode"] == ["mixed"]
    assert unit["TimeoutStopSec"] == [str(of_unit.DRAIN + of_unit.STOPPING)]
    assert unit["ExecStop"] == ["/usr/bin/rm -f /run/vllm/%i/api.sock"]


# The version of systemd since which each directive is known, where it is newer than 235 (2017).
SINCE = {
    "LockPersonality": 235, "IPAddressDeny": 235, "CacheDirectory": 235, "KeyringMode": 235,
    "TemporaryFileSystem": 238, "ProtectHostname": 242, "RestrictSUIDSGID": 242, "OOMPolicy": 243,
    "ProtectKernelLogs": 244, "ProtectClock": 245, "ProtectProc": 247, "ProcSubset": 247,
    "PrivateIPC": 248,
}  # fmt: skip
# Ubuntu's 22.04, the oldest of the systems that meta/main.yml names.
OLDEST = 249


def test_every_system_that_is_supported_knows_every_directive(unit):
    """A newer one, for which systemd would warn, is the plan's to write where it is known."""
    newer = {name for name in unit if SINCE.get(name, 0) > OLDEST}
    assert newer == set()
    sandbox = {name for name in unit if name.startswith(("Protect", "Private", "Restrict"))}
    known_before = {
        "ProtectHome", "ProtectSystem", "ProtectControlGroups", "ProtectKernelModules",
        "ProtectKernelTunables", "PrivateDevices", "PrivateNetwork", "PrivateTmp", "PrivateUsers",
        "Restart", "RestartSec", "RestrictAddressFamilies", "RestrictNamespaces",
        "RestrictRealtime",
    }  # fmt: skip
    assert sandbox <= set(SINCE) | known_before, "say since when"


@pytest.mark.parametrize(
    "name", ["PrivateNetwork", "NoNewPrivileges", "PrivateDevices", "PrivateUsers", "ProtectHome"]
)
def test_the_unit_is_shut_in(unit, name):
    assert unit[name] == ["true"]


def test_the_unit_keeps_off_what_the_engine_does_not_survive(unit):
    assert "MemoryDenyWriteExecute" not in unit
    assert "~@resources" not in unit["SystemCallFilter"]


@pytest.mark.parametrize(
    "value", ["plain", "two words", 'say "hi"', "back\\slash", "a$b", "#no comment", "'single'"]
)
def test_a_value_of_the_environment_arrives_as_it_was(value):
    instance = {"name": "chat", "environment": {"WORD": value}}
    text = render("openai_server", "instance.env.j2", openai_server_instance=instance)
    line = next(line for line in text.splitlines() if line.startswith("WORD="))
    # systemd.exec(5): double quotes with backslash escapes and no expansions, as shlex reads them.
    assert shlex.split(line) == [f"WORD={value}"]


def site(**variables):
    return render("gateway", "vllm.conf.j2", gateway_instances=INSTANCES, **variables)


def test_each_instance_has_its_door_on_each_address():
    text = site(gateway_listen=["127.0.0.1", "2001:db8::7"])
    assert re.findall(r"listen (\S+);", text) == [
        "127.0.0.1:8000",
        "[2001:db8::7]:8000",
        "127.0.0.1:8001",
        "[2001:db8::7]:8001",
    ]


def test_a_door_leads_to_its_own_instance_only():
    for server, instance in zip(site().split("server {")[1:], INSTANCES, strict=True):
        assert set(re.findall(r"proxy_pass (\S+);", server)) == {
            f"http://unix:{instance['socket']}"
        }


def test_an_engine_without_a_socket_is_reached_on_loopback():
    instance = {"name": "old", "port": 8000, "socket": None, "address": "127.0.0.1:18000"}
    text = render("gateway", "vllm.conf.j2", gateway_instances=[instance])
    assert set(re.findall(r"proxy_pass (\S+);", text)) == {"http://127.0.0.1:18000"}


def test_a_drop_in_holds_the_lines_of_its_instance():
    instance = {"name": "chat", "drop_in": ["ExecStart=", 'ExecStart=/x "100%%" {{ 1 }}']}
    text = render("openai_server", "drop_in.conf.j2", openai_server_instance=instance)
    assert text.splitlines()[1:] == ["[Service]", *instance["drop_in"]]


def test_every_route_but_the_open_ones_asks_for_the_key():
    blocks = re.findall(r"location = (\S+) \{(.*?)\n    \}", site(), re.DOTALL)
    assert {route for route, body in blocks if "return 401" not in body} == {"/health"}
    assert {"/v1/models", "/v1/chat/completions"} <= {route for route, _ in blocks}


def test_an_instance_has_the_routes_of_its_own():
    instances = [{**INSTANCES[0], "routes": ["/v1/embeddings"]}, INSTANCES[1]]
    text = render("gateway", "vllm.conf.j2", gateway_instances=instances)
    vectors, words = (set(re.findall(r"location = (\S+)", s)) for s in text.split("server {")[1:])
    assert vectors == {"/health", "/v1/embeddings"}
    assert "/v1/chat/completions" in words


def test_what_is_not_listed_ends_at_the_door():
    for server in site().split("server {")[1:]:
        assert re.search(r"location / \{\s+return 404", server)


def test_braces_and_quotes_are_paired():
    text = re.sub(r"'[^']*'", "", site())
    assert text.count("{") == text.count("}")
    assert "'" not in text


@pytest.mark.parametrize("key", ["sk-abc.def+ghi=jkl-mno", "a" * 200])
def test_the_key_and_nothing_like_it_opens(key):
    import base64

    read = {"content": base64.b64encode(f"{key}\n".encode()).decode()}
    text = render("gateway", "keys.map.j2", gateway_key_read=read)
    (pattern,) = re.findall(r'^"~(.*)" 1;$', text, re.MULTILINE)
    assert re.search(pattern, f"Bearer {key}")
    for other in (
        f"Bearer {key}x",
        f"xBearer {key}",
        f"Bearer {key.replace('.', 'x')}y",
        "Bearer ",
    ):
        assert not re.search(pattern, other)


def test_the_sites_repository_is_trusted_by_its_own_key_alone():
    key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n"
    url = "http://10.0.0.5:8080/apt/debian-12-x86_64"
    text = render(
        "os_packages", "vllm-mirror.sources.j2", os_packages_source=url, os_packages_key=key
    )
    lines = text.splitlines()
    # apt takes a URI without its last slash for the name of a file.
    assert f"URIs: {url}/" in lines
    assert "Trusted" not in text
    # An empty line would end the paragraph, and the key with it (deb822).
    begun = lines.index("Signed-By:")
    assert lines[begun + 1 : begun + 5] == [f" {line or '.'}" for line in key.splitlines()]


DOUBLE: dict[str, Any] = {
    "openai_server_release": "/opt/vllm/releases/new",
    "openai_server_instance": {
        "name": "chat.trial",
        "command": ["serve", "--config", "/etc/vllm/chat.trial.yaml"],
        "builds": True,
    },
}


def test_a_double_that_proves_ends_and_one_that_is_tried_runs_and_neither_comes_back():
    proof = render("openai_server", "double.conf.j2", openai_server_double_proves=True, **DOUBLE)
    said = directives(proof)
    assert said["ExecStart"] == [
        "",
        (
            "/opt/vllm/releases/new/bin/python /etc/vllm/chat.trial.py build serve --config"
            " /etc/vllm/chat.trial.yaml"
        ),
    ]
    assert (said["Type"], said["Restart"]) == (["oneshot"], ["no"])
    trial = render("openai_server", "double.conf.j2", openai_server_double_proves=False, **DOUBLE)
    assert set(directives(trial)) == {"Restart", "Nice"}
    assert directives(trial)["Restart"] == ["no"]


def test_a_version_whose_configuration_cannot_be_built_is_asked_to_read_it():
    instance = {**DOUBLE["openai_server_instance"], "builds": False, "command": ["--model", "m"]}
    text = render(
        "openai_server", "double.conf.j2", openai_server_double_proves=True,
        openai_server_release="/r", openai_server_instance=instance,
    )  # fmt: skip
    assert "ExecStart=/r/bin/python /etc/vllm/chat.trial.py parse --model m\n" in text


def test_a_configuration_names_its_release_so_that_another_one_is_another_configuration():
    said = {"openai_server_instance": {"config": {"model": "/srv/models/m"}}}
    one = render("openai_server", "instance.yaml.j2", openai_server_release_id="one", **said)
    assert yaml.safe_load(one) == {"model": "/srv/models/m"}
    assert one != render(
        "openai_server", "instance.yaml.j2", openai_server_release_id="two", **said
    )
