"""The web UI in an inventory: what is refused, whose models it offers, and what its plan says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.test_plan import DATA, ONE, facts
from vllm_ansible.bundle import select
from vllm_ansible.cli.plan import shown_page
from vllm_ansible.inventory import read_inventory
from vllm_ansible.plan import PlanError
from vllm_ansible.plan.mirror import plan_mirror
from vllm_ansible.plan.site import Site
from vllm_ansible.plan.webui import plan_webui
from vllm_ansible.schema import Mirror, Server, check_host, check_webui, find_doors

SECRET = "correct horse battery"  # noqa: S105 - nobody's
SEALED = ("vllm_webui.logins[0].password",)
LOGIN = {"user": "ada", "password": SECRET}
SUM = "a" * 64
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what somebody may say


def server(*listen: str, address: str = "192.0.2.11", **said: Any) -> Server:
    said.setdefault("vllm_instances", [ONE])
    said.setdefault("vllm_gateway", {"listen": list(listen) or ["127.0.0.1", "192.0.2.11"]})
    checked = check_host("s", said, DATA)
    assert checked.words is not None, checked.problems
    return Server(checked.words, address)


def lines(sealed: tuple[str, ...] = (), **webui: Any) -> list[str]:
    return [str(one) for one in check_webui("h", {"vllm_webui": webui}, DATA, sealed).problems]


def words(sealed: tuple[str, ...] = (), **said: Any):
    checked = check_webui("h", said, DATA, sealed)
    assert checked.words is not None, checked.problems
    return checked.words


def doors(servers: dict[str, Server], host: str = "h", /, **webui: Any):
    return find_doors(host, words(vllm_webui=webui).webui, servers, host in servers, DATA)


def planned(sealed: tuple[str, ...] = (), *, site: Site | None = None, **said: Any):
    read = words(sealed, **said)
    found, problems = find_doors("h", read.webui, {"s": server()}, here=False, data=DATA)
    assert problems == []
    keys = {"s": None}
    return plan_webui(read, facts(), DATA, found, name="h", fingerprints=keys, site=site)


# -- words ------------------------------------------------------------------------------------


def test_a_page_on_loopback_needs_no_word():
    assert lines() == []
    assert lines(listen=["::1"]) == []


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"lisen": ["127.0.0.1"]}, "vllm_webui.lisen: .* did you mean listen?"),
    ({"listen": [EVERYWHERE]}, "vllm_webui.listen: given 0.0.0.0; allowed a loopback .*open: true"),
    ({"listen": ["127.0.0.1", "192.0.2.1"]}, "vllm_webui.listen: given 192.0.2.1; .*logins"),
    ({"listen": ["here"]}, r"vllm_webui.listen\[0\]: .*IPv4"),
    ({"language": "fr"}, "vllm_webui.language: given 'fr'; allowed 'auto', 'en' or 'zh'"),
    ({"title": "a\nb"}, "vllm_webui.title: .*one line"),
    ({"share": True}, "vllm_webui.share: given True; allowed urls and sha256 .*docs/webui.md"),
    ({"share": {"urls": ["https://a.example/frpc"]}}, "vllm_webui.share.sha256: .*no default"),
    (
        {"share": {"urls": ["https://a.example/frpc"], "sha256": SUM}},
        "vllm_webui.share: given a public link to a page without logins; allowed logins",
    ),
    ({"logins": [{"user": "ada"}]}, r"vllm_webui.logins\[0\]: given neither"),
    ({"logins": [{**LOGIN, "password": "short"}]}, r"logins\[0\].password: .*12 to 256"),
    ({"logins": [LOGIN, {**LOGIN}]}, r"logins\[1\].user: given 'ada'; .*there twice"),
    ({"logins": [{**LOGIN, "user": "a b"}]}, r"logins\[0\].user"),
    ({"logins": [{"user": "a", "password_file": "x"}]}, r"logins\[0\].password_file: .*absolute"),
    ({"logins": [{"user": "a", "password_file": "/none"}]}, "No such file"),
]


@pytest.mark.parametrize(("webui", "says"), REFUSED)
def test_what_cannot_be_meant_is_refused(webui, says):
    import re

    sealed = (*SEALED, "vllm_webui.logins[1].password")
    problems = lines(sealed, **webui)
    assert [one for one in problems if re.search(says, one)], problems
    assert SECRET not in "".join(problems)


def test_a_password_in_clear_text_is_refused_and_not_repeated():
    (problem,) = lines(logins=[LOGIN])
    assert "a secret in clear text (not shown); allowed password_file, a !vault" in problem
    assert SECRET not in problem


def test_a_password_file_that_others_can_read_is_refused(tmp_path):
    file = tmp_path / "password"
    file.write_text(SECRET)
    file.chmod(0o644)
    (problem,) = lines(logins=[{"user": "ada", "password_file": str(file)}])
    assert f"chmod 600 {file}" in problem
    file.chmod(0o600)
    assert lines(logins=[{"user": "ada", "password_file": str(file)}]) == []


def test_a_network_is_let_in_with_logins_or_when_it_is_said():
    assert lines(SEALED, listen=["192.0.2.1"], logins=[LOGIN]) == []
    assert lines(listen=["192.0.2.1"], open=True) == []


# -- doors ------------------------------------------------------------------------------------


def test_beside_a_server_its_own_models_are_offered_over_loopback():
    found, problems = doors({"h": server(), "other": server()}, "h")
    assert problems == []
    assert [(one.name, one.url) for one in found] == [("h/a", "http://127.0.0.1:8000/v1")]


def test_a_host_of_its_own_offers_all_servers_at_the_addresses_that_it_reaches():
    servers = {
        "one": server(),
        "two": server(EVERYWHERE, address="192.0.2.12"),
        "three": server("::1", "2001:db8::3"),
    }
    found, problems = doors(servers)
    assert problems == []
    assert [one.url for one in found] == [
        "http://192.0.2.11:8000/v1",
        "http://192.0.2.12:8000/v1",
        "http://[2001:db8::3]:8000/v1",
    ]
    found, _ = doors(servers, servers=["two"])
    assert [one.server for one in found] == ["two"]


def test_a_door_on_another_host_s_loopback_is_refused_with_the_way_out():
    _, (problem,) = doors({"s": server("127.0.0.1")})
    assert str(problem).startswith("s: vllm_gateway.listen: given 127.0.0.1; allowed an address at")


def test_an_unknown_server_is_refused_with_the_nearest():
    _, (problem,) = doors({"cpu1": server()}, servers=["cpu2"])
    assert "vllm_webui.servers[0]: given 'cpu2'" in str(problem)
    assert "did you mean cpu1?" in str(problem)


def test_a_door_without_the_routes_of_a_chat_is_refused():
    closed = server(vllm_gateway={"listen": ["192.0.2.1"], "routes": ["/v1/models"]})
    _, (problem,) = doors({"s": closed})
    assert "/v1/chat/completions among them" in str(problem)


def test_a_port_that_an_instance_has_is_refused():
    _, (problem,) = doors({"h": server()}, "h", port=8000)
    assert "vllm_webui.port: given 8000; allowed a port of its own (the instance a" in str(problem)


def test_embeddings_are_not_talked_to_and_images_go_to_those_that_see():
    source = {"kind": "git-lfs", "url": "https://git.example.com/m.git"}
    kinds = {
        name: {"kind": name, "revision": "b" * 40, "sources": [source]}
        for name in ("embedding", "vision")
    }
    instances = [
        {"name": name, "model": name, "port": port}
        for port, name in enumerate(("embedding", "vision"), start=8000)
    ]
    found, problems = doors({"s": server(vllm_models=kinds, vllm_instances=instances)})
    assert problems == []
    assert [(one.name, one.vision) for one in found] == [("s/vision", True)]
    one = server(vllm_models=kinds, vllm_instances=instances[:1])
    _, (problem,) = doors({"s": one})
    assert "at least one model to talk to" in str(problem)


# -- plan -------------------------------------------------------------------------------------


def test_the_environment_s_name_is_of_all_that_is_in_it():
    plan = planned()
    assert plan.release.path == f"/opt/vllm/webui/releases/{plan.release.id}"
    assert plan.environment.prefix == plan.release.path
    names = [pin.split("==")[0] for pin in plan.packages.requirements]
    assert "gradio" in names
    assert set(plan.packages.hashes) == set(names)
    data = DATA.webui.lock.model_copy(update={"pins": DATA.webui.lock.pins[:-1]})
    webui = DATA.webui.model_copy(update={"lock": data})
    changed = DATA.model_copy(update={"webui": webui})
    found, _ = find_doors("h", words().webui, {"s": server()}, here=False, data=DATA)
    assert plan_webui(words(), facts(), changed, found).release != plan.release


def test_other_code_has_another_directory_and_each_file_is_in_the_receipt():
    plan = planned()
    paths = [one.path for one in plan.managed.files]
    assert f"{plan.code}/vllm_webui/page.py" in paths
    webui = DATA.webui.model_copy(update={"code": {**DATA.webui.code, "page.py": SUM}})
    changed = DATA.model_copy(update={"webui": webui})
    found, _ = find_doors("h", words().webui, {"s": server()}, here=False, data=DATA)
    assert plan_webui(words(), facts(), changed, found).code != plan.code


def test_the_service_may_talk_to_its_servers_alone_unless_it_has_a_public_link():
    assert planned().allow == ["192.0.2.11"]
    share = {"urls": ["https://a.example/frpc"], "sha256": SUM}
    plan = planned(vllm_webui={"share": share, "open": True})
    assert plan.allow == []
    assert plan.tunnel is not None
    assert plan.tunnel.filename == "frpc_linux_amd64_v0.3"
    assert plan.settings["share"] == "127.0.0.1:7860"
    assert len(plan.notices) == 2


def test_secrets_are_marked_in_the_receipt_and_stand_in_no_plan():
    plan = planned(SEALED, vllm_webui={"logins": [LOGIN], "listen": ["192.0.2.1"]})
    assert SECRET not in json.dumps(plan.model_dump(mode="json"))
    secret = {one.path for one in plan.managed.files if one.secret}
    assert secret == {"/etc/vllm-webui/key-s", "/etc/vllm-webui/logins"}
    assert plan.users == ["ada"]
    assert plan.settings["login"] is True


def test_the_page_is_asked_at_an_address_of_the_host():
    assert planned().url == "http://127.0.0.1:7860"
    assert (
        planned(vllm_webui={"listen": ["192.0.2.1"], "open": True}).url == "http://192.0.2.1:7860"
    )
    assert planned(vllm_webui={"listen": ["::"], "open": True}).url == "http://[::1]:7860"


def test_what_changes_the_host_changes_the_digest():
    read = words()
    found, _ = find_doors("h", read.webui, {"s": server()}, here=False, data=DATA)

    def digest(**more: Any) -> str:
        given = {"name": "h", "fingerprints": {"s": "1"}, "logins": {}, **more}
        return plan_webui(read, facts(), DATA, found, **given).digest

    assert digest() == digest(name="other")
    assert digest() != digest(fingerprints={"s": "2"})
    assert digest() != digest(logins={"ada": "1"})
    assert planned().digest != planned(vllm_webui={"title": "Ours"}).digest


def test_a_full_disk_is_told_before_anything_is_done():
    read = words()
    found, _ = find_doors("h", read.webui, {"s": server()}, here=False, data=DATA)
    with pytest.raises(PlanError, match="need 1600 MiB in /opt, 100 are free"):
        plan_webui(read, facts(disk_free_mib={"/opt": 100}), DATA, found)


def test_behind_a_mirror_host_everything_comes_from_it():
    plan = planned(site=Site(mirror="192.0.2.3:8080"))
    assert plan.packages.default_index == "http://192.0.2.3:8080/pypi/default/simple/"
    assert all(url.startswith("http://192.0.2.3:8080/") for url in plan.miniconda.urls)
    fetched = plan_mirror("m", Mirror(), "192.0.2.3", {"h (web UI)": plan.needs})
    assert [one.name for one in fetched.indexes if one.name == "default"] == ["default"]


def test_a_bundle_carries_what_the_page_is_made_of():
    plan = planned()
    carried = select([plan.model_dump(mode="json")])
    (packages, uv) = carried["packages"]
    assert packages["python"] == plan.release.python
    assert len(packages["requirements"]) == len(plan.packages.requirements)
    assert all(" --hash=sha256:" in line for line in packages["requirements"])
    assert uv["requirements"] == [f"uv=={plan.packages.uv}"]
    assert carried["environments"][0]["packages"] == plan.environment.packages
    assert "nginx" in carried["os_packages"]


# -- inventories ------------------------------------------------------------------------------


@pytest.fixture
def problems(tmp_path):
    """Return a function that reads an inventory and tells what is wrong with it."""

    def read(groups: str, variables: str = "") -> list[str]:
        folder = tmp_path / "inventory"
        (folder / "group_vars").mkdir(parents=True, exist_ok=True)
        hosts = (
            "all: {children: {vllm: {hosts: {one: {ansible_host: 192.0.2.11}}}" + groups + "}}\n"
        )
        (folder / "hosts.yml").write_text(hosts)
        said = "vllm_instances: [{name: a, model: qwen2.5-0.5b-instruct}]\n"
        (folder / "group_vars" / "vllm.yml").write_text(said)
        (folder / "group_vars" / "all.yml").write_text(variables or "{}\n")
        return [str(one) for one in read_inventory(folder).problems()]

    return read


def test_a_web_ui_beside_its_server_is_group_membership_alone(problems):
    assert problems(", webui: {hosts: {one: {}}}") == []


def test_words_without_a_host_to_carry_them_out_are_refused(problems):
    (problem,) = problems("", "vllm_webui: {port: 81}\n")
    assert problem.startswith("group webui: given no host; allowed at least one host")


def test_a_host_of_its_own_is_checked_with_all_others(problems):
    found = problems(", webui: {hosts: {talk: {}}}", "vllm_webui: {listen: [192.0.2.7]}\n")
    assert any(one.startswith("talk: vllm_webui.listen: given 192.0.2.7") for one in found)
    (problem,) = problems(", webui: {hosts: {talk: {}}}")
    assert problem.startswith("one: vllm_gateway.listen: given 127.0.0.1; allowed an address at")
    assert problems(
        ", webui: {hosts: {talk: {}}}", "vllm_gateway: {listen: [127.0.0.1, 192.0.2.11]}\n"
    ) != [problem]


def test_the_plan_says_where_the_page_is_and_what_it_offers(problems, tmp_path):
    assert problems(", webui: {hosts: {one: {}}}") == []
    (page,) = [shown_page(one) for one in read_inventory(tmp_path / "inventory").webuis]
    assert page["urls"] == ["http://127.0.0.1:7860"]
    assert page["offers"] == {"one/a": "http://127.0.0.1:8000/v1"}
    assert (page["users"], page["public_link"]) == ([], False)
