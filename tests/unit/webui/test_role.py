"""The service and the door of the web UI, as the role writes them."""

import re

import pytest

from tests.unit.test_templates import directives, render
from vllm_ansible.data import project_data

KEY = "sk-never-to-be-seen"


def unit(**variables):
    variables = {"webui_release_path": "/opt/vllm/webui/releases/0123", **variables}
    return render("webui", "vllm-webui.service.j2", **variables)


def door(**variables):
    return render("webui", "vllm-webui.conf.j2", **variables)


def test_the_unit_starts_its_own_environment_as_its_own_user():
    found = directives(unit())
    assert found["ExecStart"] == [
        "/opt/vllm/webui/releases/0123/bin/python -s -m vllm_webui /etc/vllm-webui/settings.json"
    ]
    assert found["User"] == ["vllm-webui"]


def test_secrets_come_as_credentials_and_stand_nowhere_in_the_unit():
    text = unit(webui_keys={"key-s": KEY}, webui_logins={"ada": KEY})
    assert directives(text)["LoadCredential"] == [
        "key-s:/etc/vllm-webui/key-s",
        "logins:/etc/vllm-webui/logins",
    ]
    assert KEY not in text
    assert "LoadCredential" not in unit()


def test_the_service_talks_to_its_servers_alone():
    found = directives(unit(webui_allow=["192.0.2.11", "192.0.2.12"]))
    assert found["IPAddressDeny"] == ["any"]
    assert found["IPAddressAllow"] == ["192.0.2.11", "192.0.2.12"]
    assert "IPAddressDeny" not in directives(unit(webui_allow=[]))


@pytest.mark.parametrize(
    "name",
    ["NoNewPrivileges", "PrivateDevices", "PrivateUsers", "ProtectHome", "MemoryDenyWriteExecute"],
)
def test_the_unit_is_shut_in(name):
    assert directives(unit())[name] == ["true"]


def test_its_memory_is_bounded():
    assert directives(unit(webui_memory_mib=700))["MemoryMax"] == ["700M"]


def test_settings_that_are_wrong_are_not_tried_for_ever():
    assert directives(unit())["RestartPreventExitStatus"] == ["78"]


def test_the_door_is_on_each_address_and_leads_to_the_socket():
    text = door(webui_listen=["127.0.0.1", "2001:db8::1"], webui_port=81)
    assert re.findall(r"listen (\S+);", text) == ["127.0.0.1:81", "[2001:db8::1]:81"]
    assert set(re.findall(r"proxy_pass (\S+);", text)) == {"http://unix:/run/vllm-webui/http.sock"}


def test_words_are_not_held_back_and_passwords_not_guessed_fast():
    text = door()
    assert "proxy_buffering off;" in text
    assert re.search(r"location ~ \^/login/\?\$ \{\s+limit_req ", text)


def test_what_is_asked_on_the_host_is_not_for_visitors():
    assert re.search(r"location = /ready \{\s+return 404;", door())


def test_what_the_role_copies_is_all_of_the_code():
    code = project_data().webui.code
    assert len(code) > 8
    assert {name.rpartition(".")[2] for name in code} == {"py", "css"}
    assert not [name for name in code if "/" in name]
