"""What the unit gives the page: settings and credentials, refused where they are wrong."""

import json

import pytest
from vllm_webui.login import allowed, matches
from vllm_webui.settings import SettingsError, read_keys, read_logins, read_settings

from filter_plugins.logins import hashed_logins

GIVEN = {
    "endpoints": [{"name": "a", "url": "http://127.0.0.1:8000/v1", "credential": "key-a"}],
    "socket": "/run/vllm-webui/http.sock",
}
PASSWORD = "correct horse battery"  # noqa: S105 - nobody's


@pytest.fixture
def settings(tmp_path):
    def read(**more):
        file = tmp_path / "settings.json"
        file.write_text(json.dumps({**GIVEN, **more}))
        return read_settings(file)

    return read


def test_settings_are_read(settings):
    assert settings(language="zh").language == "zh"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"port": 7860}, "one of socket and port"),
        ({"socket": None}, "one of socket and port"),
        ({"language": "fr"}, "language"),
        ({"endpoints": []}, "endpoints"),
        ({"titel": "x"}, "titel"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings, more, says):
    with pytest.raises(SettingsError, match=says):
        settings(**more)


def test_a_missing_or_empty_key_is_refused_by_the_name_of_its_credential(settings, tmp_path):
    read = settings()
    with pytest.raises(SettingsError, match="credential key-a cannot be read: No such file"):
        read_keys(read, tmp_path)
    with pytest.raises(SettingsError, match="CREDENTIALS_DIRECTORY"):
        read_keys(read, None)
    (tmp_path / "key-a").write_text("\n")
    with pytest.raises(SettingsError, match="credential key-a is empty"):
        read_keys(read, tmp_path)
    (tmp_path / "key-a").write_text("sk-1\n")
    assert read_keys(read, tmp_path) == {"key-a": "sk-1"}


def test_a_page_with_logins_and_no_account_does_not_start(settings, tmp_path):
    read = settings(login=True)
    for content in ("{}", "[]", "no json"):
        (tmp_path / "logins").write_text(content)
        with pytest.raises(SettingsError, match="credential logins"):
            read_logins(read, tmp_path)
    assert read_logins(settings(), None) == {}


def test_the_right_password_and_no_other_opens():
    stored = json.loads(hashed_logins({"ada": PASSWORD}))
    assert allowed(stored, "ada", PASSWORD)
    assert not allowed(stored, "ada", PASSWORD + "x")
    assert not allowed(stored, "eve", PASSWORD)
    assert not allowed(stored, "eve", "")
    assert not matches(PASSWORD, "nonsense")
    assert PASSWORD not in stored["ada"]


def test_a_hash_stays_while_the_password_does():
    first = hashed_logins({"ada": PASSWORD})
    assert hashed_logins({"ada": PASSWORD}, first) == first
    other = json.loads(hashed_logins({"ada": PASSWORD + "2", "eve": PASSWORD}, first))
    assert other["ada"] != json.loads(first)["ada"]
    assert json.loads(hashed_logins({"ada": PASSWORD}))["ada"] != json.loads(first)["ada"]
    assert hashed_logins({}, "no json") == "{}"
