"""What a site decides together: its mirror host, sources seen through it, who may go without."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.test_plan import DATA, ONE, facts
from vllm_ansible.plan import PlanError, plan_host
from vllm_ansible.plan.mirror import plan_mirror
from vllm_ansible.plan.site import Site
from vllm_ansible.plan.sources import Resolved, resolve, through_mirror
from vllm_ansible.schema import Mirror, Sources, check_host, check_site

DOOR = "192.0.2.3:8080"
CUSTOM = {
    "profile": "custom",
    "miniconda": {"mirrors": ["https://a.example/miniconda/"]},
    "conda": {"default_channels": ["https://a.example/pkgs/main"]},
    "packages": {"engine_indexes": ["https://a.example/vllm/"]},
}


def words(**said: Any):
    checked = check_host("h", {"vllm_instances": [ONE], **said}, DATA)
    assert checked.words is not None, checked.problems
    return checked.words


def planned(site: Site | None = None, *, of: dict[str, Any] | None = None, **said: Any):
    record = facts(**(of or {}))
    return plan_host(words(**said), record, DATA, name="h", site=site)


def sources(**said: Any) -> Resolved:
    return resolve(Sources.model_validate(said), DATA, "0.31.0")


# -- the words of a site ----------------------------------------------------------------------


def site(groups: dict[str, list[str]], *, servers: int = 1, local: bool = False, **variables: Any):
    said = words(vllm_sources={"site_local": local})
    return check_site(groups, variables, {f"s{n}": said for n in range(servers)})


def test_two_servers_may_fetch_for_themselves_and_a_third_needs_a_mirror_host():
    assert site({}, servers=2).problems == []
    (problem,) = site({}, servers=3).problems
    assert "a host in the group mirror" in str(problem)
    assert "3 servers" in str(problem)


def test_a_mirror_host_or_sources_of_the_site_s_own_let_any_number_in():
    assert site({"mirror": ["m"]}, servers=9, m={"__address__": "192.0.2.3"}).problems == []
    assert site({}, servers=9, local=True).problems == []


@pytest.mark.parametrize("group", ["mirror", "build"])
def test_a_site_has_one_mirror_host_and_one_build_host(group):
    both: dict[str, Any] = {name: {"__address__": "192.0.2.3"} for name in ("a", "b")}
    problems = [str(p) for p in site({group: ["a", "b"]}, **both).problems]
    assert problems == [f"group {group}: given a, b; allowed at most one host in the group {group}"]


def test_the_mirror_host_s_address_is_its_word_else_what_ansible_reaches():
    said = {"__address__": "192.0.2.3", "vllm_mirror": {"address": "192.0.2.9", "port": 81}}
    assert site({"mirror": ["m"]}, m=said).door == "192.0.2.9:81"
    assert site({"mirror": ["m"]}, m={"__address__": "192.0.2.3"}).door == DOOR
    assert site({"mirror": ["m"]}, m={"vllm_mirror": {"address": "::1"}}).door == "[::1]:8080"


def test_a_mirror_host_with_a_name_only_must_be_given_its_address():
    (problem,) = site({"mirror": ["m"]}, m={"__address__": "store.example.com"}).problems
    assert str(problem).startswith(
        "m: vllm_mirror.address: given store.example.com; allowed the IP"
    )


def test_a_mirror_host_that_serves_too_has_two_ports():
    variables = {"m": {"vllm_mirror": {"address": "192.0.2.3", "port": 8000}}}
    (found,) = check_site({"mirror": ["m"]}, variables, {"m": words()}).problems
    assert (found.variable, found.given) == ("vllm_mirror.port", "8000")
    variables["m"]["vllm_mirror"] = {"address": "192.0.2.3"}
    assert check_site({"mirror": ["m"]}, variables, {"m": words()}).problems == []


def test_wrong_words_of_a_mirror_host_are_refused_although_it_serves_no_model():
    said = {"__address__": "192.0.2.3", "vllm_mirror": {"max_gib": 1}, "vllm_miror": {}}
    problems = " ".join(str(p) for p in site({"mirror": ["m"]}, m=said).problems)
    assert "vllm_mirror.max_gib" in problems
    assert "did you mean vllm_mirror" in problems


# -- sources through the mirror host ----------------------------------------------------------


def test_a_server_behind_a_mirror_host_asks_nobody_else():
    seen = through_mirror(sources(profile="tuna"), DOOR, DATA, Sources())
    base = f"http://{DOOR}"
    assert seen.miniconda == [f"{base}/static/installers/"]
    assert seen.conda.default_channels == [f"{base}/conda/main"]
    assert seen.conda.custom_channels == {"conda-forge": f"{base}/conda"}
    assert seen.packages.default_index == f"{base}/pypi/default/simple/"
    assert seen.packages.engine_indexes == [f"{base}/pypi/engine-0.31.0/simple/"]
    assert seen.packages.torch_indexes == [f"{base}/pypi/torch/simple/"]
    assert seen.packages.torch_find_links == []
    assert seen.pip["global"]["trusted-host"] == "192.0.2.3"


def test_every_address_of_a_plan_behind_a_mirror_host_is_the_mirror_host_s():
    made = planned(Site(mirror=DOOR))
    addresses = [*made.miniconda.urls, *made.packages.indexes, made.packages.default_index]
    addresses += [source["url"] for model in made.models for source in model.sources]
    addresses += made.miniconda.condarc["default_channels"]
    assert addresses
    assert all(one.startswith(f"http://{DOOR}/") for one in addresses)
    outside = [one.url for one in (*made.needs.indexes, *made.needs.channels)]
    outside += [
        *made.needs.installer.urls,
        *(s["url"] for m in made.needs.models for s in m.sources),
    ]
    assert not any(DOOR in one for one in outside)


def test_channels_of_one_name_at_two_places_are_told_apart():
    both = sources(
        profile="custom",
        conda={
            "default_channels": ["https://a.example/main", "https://b.example/main"],
            "custom_channels": {"conda-forge": "https://a.example/cloud"},
        },
    )
    names = [one.name for one in both.channels()]
    assert len(set(names)) == 3
    seen = through_mirror(both, DOOR, DATA, Sources())
    assert len(set(seen.conda.default_channels)) == 2


def test_the_profile_site_has_the_mirror_host_fetch_as_the_default_profile_does():
    assert sources(profile="site") == sources(profile="tuna")


def test_torch_s_index_is_asked_by_the_mirror_host_and_not_by_the_server():
    url = "https://download.pytorch.org/whl/cpu"
    off = {"reachable": {url: False}}
    assert planned(Site(mirror=DOOR), of=off).release.torch_source == "default-index"
    asked = Site(mirror=DOOR, answers={url: True})
    assert planned(asked, of=off).release.torch_source == "cpu-index"
    held = Site(mirror=DOOR, indexes=["default", "torch"])
    assert planned(held, of=off).release.torch_source == "cpu-index"


def test_servers_behind_a_mirror_host_wait_while_it_fetches_for_another():
    alone, behind = planned(), planned(Site(mirror=DOOR))
    assert behind.packages.http_timeout > 10 * alone.packages.http_timeout
    patience = behind.miniconda.condarc["remote_read_timeout_secs"]
    assert patience == behind.packages.http_timeout
    assert "remote_read_timeout_secs" not in alone.miniconda.condarc


def test_a_flat_listing_is_of_no_use_behind_a_mirror_host_that_passes_on_none():
    listing = "https://mirrors.aliyun.com/pytorch-wheels/cpu/"
    only = Site(mirror=DOOR, answers={listing: True})
    assert planned(only).release.torch_source == "default-index"


def test_a_mirror_host_makes_no_other_release_and_pip_conf_is_recorded():
    alone, behind = planned(), planned(Site(mirror=DOOR))
    assert alone.release.id == behind.release.id
    assert "/etc/pip.conf" in {file.path for file in behind.managed.files}


def test_debian_s_packages_come_from_the_mirror_host_if_a_bundle_brought_this_release():
    brought = Site(mirror=DOOR, repositories=["debian-12-x86_64"])
    assert planned(brought).repository == f"http://{DOOR}/apt/debian-12-x86_64/"
    other = Site(mirror=DOOR, repositories=["debian-13-x86_64"])
    assert planned(other).repository == ""


ARCHIVES = ["http://a.example/debian", "http://192.0.2.3/own"]


def test_a_host_s_own_archives_are_asked_through_the_mirror_host():
    alone = planned(of={"apt_archives": ARCHIVES})
    assert (alone.apt_proxy, alone.needs.archives) == ("", ARCHIVES)
    behind = planned(Site(mirror=DOOR), of={"apt_archives": ARCHIVES})
    assert behind.apt_proxy == f"http://{DOOR}"
    # What lies on the mirror host itself is asked there.
    assert behind.needs.archives == ARCHIVES[:1]
    # Where bits come from is no reason to touch a host that has them.
    assert behind.digest == planned(Site(mirror=DOOR)).digest


def test_nothing_is_passed_through_where_nothing_can_be_or_a_bundle_has_it():
    assert planned(Site(mirror=DOOR)).apt_proxy == ""
    brought = Site(mirror=DOOR, repositories=["debian-12-x86_64"])
    made = planned(brought, of={"apt_archives": ARCHIVES})
    assert (made.apt_proxy, made.needs.archives) == ("", [])


def test_what_the_mirror_host_holds_is_read_off_its_manifest():
    paths = (
        "installers/m.sh", "pypi/torch/torch/torch-1.whl", "apt/debian-12-x86_64/a.deb",
        "wheels/k/vllm-1.whl",
    )  # fmt: skip
    files = {path: {"size": 1, "sha256": "a" * 64} for path in paths}
    said = Site.of(DOOR, {"files": files, "reachable": {"https://a.example": True}})
    assert (said.indexes, said.repositories) == (["torch"], ["debian-12-x86_64"])
    assert said.wheels == {"wheels/k/vllm-1.whl": "a" * 64}
    assert said.answers == {"https://a.example": True}


# -- what the mirror host is to hold ----------------------------------------------------------


def mirror_plan(**needs: Any):
    return plan_mirror("m", Mirror(), "192.0.2.3", needs)


def test_what_several_servers_need_is_held_once():
    one = planned(Site(mirror=DOOR)).needs
    made = mirror_plan(a=one, b=one)
    assert [artifact.path for artifact in made.artifacts] == [
        "installers/Miniconda3-py310_26.7.1-1-Linux-x86_64.sh"
    ]
    assert len(made.snapshots) == 1
    assert made.snapshots[0].path.startswith("/srv/mirror/models/qwen2.5-0.5b-instruct/")
    assert made.snapshots[0].sources[0]["kind"] == "git-lfs"
    assert made == mirror_plan(b=one)


def test_the_mirror_host_passes_on_the_archives_that_its_servers_name_and_no_other():
    one = planned(Site(mirror=DOOR), of={"apt_archives": ["http://a.example/debian"]}).needs
    two = planned(Site(mirror=DOOR), of={"apt_archives": ["http://b.example/ubuntu"]}).needs
    made = mirror_plan(a=one, b=two, c=one)
    assert made.archives == ["http://a.example/debian", "http://b.example/ubuntu"]


def test_a_mirror_host_s_record_names_what_it_must_still_have():
    made = mirror_plan(a=planned(Site(mirror=DOOR)).needs)
    paths = {file.path for file in made.managed.files}
    assert {f"/srv/mirror/store/{one.path}" for one in made.artifacts} < paths
    assert {"/etc/nginx/conf.d/vllm-mirror.conf", "/etc/vllm-mirror/default.env"} < paths
    assert {"nginx.service", "proxpi@default.service"} <= set(made.managed.units)
    assert made.receipt["models"][0]["path"] == made.snapshots[0].path


def test_whatever_changes_a_mirror_host_makes_another_digest():
    one = planned(Site(mirror=DOOR)).needs
    more = one.model_copy(update={"archives": ["http://a.example/debian"]})
    plans = [
        mirror_plan(a=one),
        mirror_plan(a=more),
        plan_mirror("m", Mirror(), "192.0.2.3", {"a": one}, {"mirror_max_connections": 9}),
        plan_mirror("m", Mirror(max_gib=7), "192.0.2.3", {"a": one}),
    ]
    assert len({plan.digest for plan in plans}) == len(plans)
    assert mirror_plan(a=one, b=one).digest == plans[0].digest


def test_servers_of_different_processors_have_their_installers_beside_each_other():
    arm = planned().needs.installer.model_copy(update={"filename": "other-aarch64.sh"})
    one = planned().needs
    made = mirror_plan(a=one, b=one.model_copy(update={"installer": arm}))
    assert len(made.artifacts) == 2


def test_servers_that_mean_different_sources_by_one_name_cannot_share_a_mirror_host():
    one, other = planned().needs, planned(vllm_sources=CUSTOM).needs
    with pytest.raises(PlanError) as error:
        mirror_plan(a=one, b=other)
    assert "m: vllm_sources of a and b name different" in str(error.value)
    assert "https://a.example/pkgs/main" in str(error.value)


# -- a wheel, or a build ----------------------------------------------------------------------


METHODS = [
    # engine, facts, source build?, the reason says
    ({}, {}, False, "there is a CPU wheel"),
    ({}, {"glibc": "2.31"}, True, "the CPU wheel needs 2.35"),
    ({"install": "source"}, {}, True, "asks for it"),
    ({"install": "wheel"}, {}, False, "asks for it"),
    ({"version": "0.11.0", "accept_vulnerable": True}, {}, True, "from 0.17.0 on"),
]


@pytest.mark.parametrize(("engine", "differs", "compiled", "why"), METHODS)
def test_a_wheel_is_taken_where_there_is_one_that_the_host_can_load(engine, differs, compiled, why):
    made = planned(of=differs, vllm_engine={"device": "cpu", **engine})
    assert (made.wheel is not None) == compiled
    assert why in next(reason.why for reason in made.reasons if reason.subject == "install")


REFUSED = [
    ({"install": "wheel"}, {"glibc": "2.31"}, "glibc 2.31, vLLM's CPU wheel needs 2.35"),
    ({"install": "wheel", "version": "0.11.0"}, {}, "no CPU wheel: there is one from 0.17.0 on"),
]


@pytest.mark.parametrize(("engine", "differs", "says"), REFUSED)
def test_a_wheel_that_cannot_be_is_refused_with_the_way_out(engine, differs, says):
    engine = {"device": "cpu", "accept_vulnerable": True, **engine}
    with pytest.raises(PlanError) as error:
        planned(of=differs, vllm_engine=engine)
    assert says in str(error.value)
    assert "install: source" in str(error.value)


def test_a_compiled_engine_is_another_release_than_a_fetched_one():
    fetched = planned(vllm_engine={"device": "cpu"})
    compiled = planned(vllm_engine={"device": "cpu", "install": "source"})
    assert fetched.release.id != compiled.release.id
    assert compiled.wheel is not None
    assert compiled.wheel.key.startswith("0.31.0-cpu-py3.10-")


def test_the_key_of_a_compiled_wheel_holds_what_it_is_made_from():
    keys = {
        planned(of=differs, vllm_engine={"install": "source", "device": "cpu", **engine}).wheel.key
        for engine, differs in (
            ({}, {}),
            ({"source": "git"}, {}),
            ({"version": "0.30.0", "accept_vulnerable": True}, {}),
        )
    }
    assert len(keys) == 3
    # Memory and cores of a server change nothing in it.
    small, large = (
        planned(of={"cores": n}, vllm_engine={"install": "source", "device": "cpu"}).wheel.key
        for n in (2, 64)
    )
    assert small == large
