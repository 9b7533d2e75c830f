"""The web UI beside the lab's server: the real engine, the real model, a real browser."""

import re
import shutil
import time
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import sync_playwright

from tests.lab.conftest import EVERYTHING, on_host, run

pytestmark = pytest.mark.lab
HERE = Path(__file__).parent
SITE = ("ansible-playbook", "site.yml", "-i", "inventories/lab", "-i", str(HERE / "webui"))
PAGE = "http://10.97.53.11:7860"
UNIT = "vllm-webui.service"
PASSWORD = "correct horse battery"  # noqa: S105 - of a machine that is removed


def changes(done):
    """Read Ansible's recap: how many tasks changed the server."""
    found = re.search(r"^cpu1\s+: ok=.*changed=(\d+)", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found
    return int(found[1])


@pytest.fixture(scope="module")
def password(tmp_path_factory):
    file = tmp_path_factory.mktemp("webui") / "password"
    file.write_text(PASSWORD)
    file.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEBUI_PASSWORD_FILE", str(file))
        yield file


@pytest.fixture(scope="module")
def checked(lab_up, password):
    """Check mode on a server without a web UI: what it said, and what it left."""
    before = on_host(EVERYTHING).stdout
    return run(*SITE, "--check", "--diff"), before, on_host(EVERYTHING).stdout


@pytest.fixture(scope="module")
def webui(checked):
    done = run(*SITE)
    assert changes(done) > 10
    return done


def test_check_mode_says_what_would_be_done_and_does_nothing(checked):
    done, before, after = checked
    assert changes(done) > 5
    assert "gradio==" in done.stdout
    assert after == before
    assert PASSWORD not in done.stdout


def test_a_second_run_changes_nothing(webui):
    assert changes(run(*SITE)) == 0


def test_what_drifts_is_put_right(webui):
    # Without its settings it does not start, and systemd gives it up.
    on_host(f"rm /etc/vllm-webui/settings.json; systemctl restart {UNIT}")
    assert changes(run(*SITE)) > 0
    assert changes(run(*SITE)) == 0


def test_it_keeps_its_secrets(webui):
    assert "The page reaches its models" in webui.stdout
    key = on_host("cat /etc/vllm/api_key").stdout.strip()
    for secret in (key, PASSWORD):
        assert secret not in webui.stdout
        assert secret not in on_host("ps axeww; cat /proc/[0-9]*/environ").stdout
        assert secret not in on_host("journalctl --no-pager --boot").stdout
        assert secret not in on_host("cat /var/lib/vllm/webui.json").stdout
    found = on_host(f"grep -rlF -- {PASSWORD!r} /etc /opt/vllm/webui /var/lib/vllm /var/cache")
    assert found.stdout == ""
    modes = on_host("stat -c '%n %a %U' /etc/vllm-webui/key-cpu1 /etc/vllm-webui/logins").stdout
    assert re.findall(r" (\d+ \w+)$", modes, re.MULTILINE) == ["600 root", "600 root"]


def test_the_service_is_shut_in_and_comes_back(webui):
    exposure = on_host(f"systemd-analyze security --no-pager {UNIT} | tail -1").stdout
    (level,) = re.findall(r"\d+\.\d", exposure)
    assert float(level) < 2.0
    assert on_host(f"systemctl is-enabled {UNIT}").stdout.strip() == "enabled"
    on_host(f"systemctl kill --signal=KILL {UNIT}")
    until = time.monotonic() + 60
    while httpx.get(f"{PAGE}/health").status_code != httpx.codes.OK:
        assert time.monotonic() < until
        time.sleep(0.5)


def test_somebody_talks_to_the_real_model(webui):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1000, "height": 720}, locale="en-US")
        page.set_default_timeout(60_000)
        asked = []
        page.on("request", lambda one: asked.append(one.url))
        page.goto(PAGE)
        page.locator("input:not([type=password])").first.fill("ada")
        page.fill("input[type=password]", PASSWORD)
        page.get_by_role("button", name="Login").click()
        page.wait_for_function("document.querySelector('#ask textarea')?.placeholder")
        page.click("#settings > button")
        page.fill("#temperature input[type=number]", "0")
        page.press("#temperature input[type=number]", "Tab")
        page.click("#settings > button")
        for question in ("Name the capital of France.", "In which country is that city?"):
            page.fill("#ask textarea", question)
            page.press("#ask textarea", "Enter")
            page.wait_for_selector("#ask .stop-button")
            page.wait_for_selector("#ask .submit-button")
        answers = page.locator("#chat .bot .prose").all_inner_texts()
        page.screenshot(path=HERE.parents[1] / "artifacts" / "webui" / "lab.png")
        browser.close()
    assert "Paris" in answers[0]
    # It has not been told again which city.
    assert "France" in answers[1]
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {"10.97.53.11:7860"}
