"""How the role `mirror` lets proxpi answer: its settings of gunicorn, and each index's own."""

import runpy
from types import SimpleNamespace

import pytest
import requests

from tests.unit.test_templates import directives, render
from vllm_ansible.paths import PROJECT

SETTINGS = runpy.run_path(str(PROJECT / "roles/mirror/files/gunicorn.conf.py"))


@pytest.mark.parametrize(
    ("index", "client"), [(404, 404), (410, 404), (403, 403), (429, 429), (500, 502), (401, 502)]
)
def test_clients_hear_what_the_index_said(index, client):
    error = requests.HTTPError(response=SimpleNamespace(status_code=index))
    assert SETTINGS["upstream_status"](error) == client


def test_an_index_that_does_not_answer_is_no_index_without_the_package():
    assert SETTINGS["upstream_status"](requests.ConnectionError("no route")) == 504


def test_pages_are_asked_for_by_their_own_names_and_a_refusal_is_an_error():
    asked = []

    def get(url, **words):
        asked.append(url)
        response = requests.Response()
        response.status_code, response.url = (404 if "none" in url else 200), url
        return response

    ask = SETTINGS["asking_for_the_page_itself"](get)
    ask("http://index/simple/six", stream=True)
    ask("http://index/simple/")
    assert asked == ["http://index/simple/six/", "http://index/simple/"]
    with pytest.raises(requests.HTTPError):
        ask("http://index/simple/none")


def settings(**index):
    return directives(render("mirror", "index.env.j2", mirror_index=index))


def test_an_index_is_asked_at_its_address_with_one_slash():
    for url in ("https://i.example/simple", "https://i.example/simple//"):
        assert settings(name="a", url=url)["PROXPI_INDEX_URL"] == ["https://i.example/simple/"]


def test_an_index_without_an_address_is_the_clients_default():
    assert "PROXPI_INDEX_URL" not in settings(name="a", url="")


def test_files_are_left_to_nginx():
    assert settings(name="a", url="")["PROXPI_CACHE_SIZE"] == ["0"]


def test_the_unit_may_do_no_more_than_it_needs():
    unit = directives(render("mirror", "proxpi@.service.j2"))
    assert unit["User"] == ["vllm-mirror"]
    for name in ("NoNewPrivileges", "PrivateDevices", "PrivateUsers", "ProtectHome"):
        assert unit[name] == ["true"]
    assert unit["ProtectSystem"] == ["strict"]
    # gunicorn was killed by SIGSYS without this.
    assert unit["SystemCallFilter"][-1] == "@chown"
