"""What a bundle carries follows from the plans."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.test_plan import DATA, ONE, facts, plan
from vllm_ansible.bundle import BundleError, select
from vllm_ansible.plan import plan_host
from vllm_ansible.plan.site import Site
from vllm_ansible.schema import check_host


def made(**words: Any) -> dict[str, Any]:
    content: dict[str, Any] = plan(**words).model_dump(mode="json")
    return content


def test_everything_that_a_plan_fetches_is_carried():
    host = made()
    found = select([host])
    assert found["installers"][0]["sha256"] == host["miniconda"]["sha256"]
    assert found["environments"][0]["packages"] == host["environment"]["packages"]
    release, uv = found["packages"]
    pins = [line.split(" ")[0] for line in release["requirements"]]
    assert pins == host["packages"]["requirements"]
    assert uv["requirements"] == [f"uv=={host['packages']['uv']}"]
    assert found["os_packages"] == host["apt"]
    assert [s["revision"] for s in found["snapshots"]] == [m["revision"] for m in host["models"]]
    for model in host["models"]:
        assert f"models/{model['name']}/{model['revision']}.json" in found["paths"]
    assert f"store/installers/{host['miniconda']['filename']}" in found["paths"]
    assert found["hosts"] == [
        {"host": "h", "plan": host["digest"], "release": host["release"]["id"]}
    ]


def test_equal_hosts_are_carried_once_and_different_ones_side_by_side():
    found = select([made(), made()])
    assert len(found["environments"]) == 1
    assert len(found["snapshots"]) == 1
    assert len(found["hosts"]) == 2
    second = {**ONE, "name": "b", "model": "bge-small-zh-v1.5", "port": 8001}
    assert len(select([made(), made(vllm_instances=[second])])["snapshots"]) == 2


def test_the_hashes_of_a_lock_go_with_their_pins():
    host = made()
    name, _ = host["packages"]["requirements"][0].split("==")
    host["packages"]["hashes"] = {name: ["a" * 64]}
    assert f"--hash=sha256:{'a' * 64}" in select([host])["packages"][0]["requirements"][0]


def test_indexes_and_channels_are_called_as_a_mirror_host_calls_them():
    host = made()
    names = select([host])["index_names"]
    assert set(names.values()) <= {one["name"] for one in host["needs"]["indexes"]}
    channels = select([host])["environments"][0]["channels"]
    known = {one["url"]: one["name"] for one in host["needs"]["channels"]}
    assert {c["url"].rstrip("/"): c["name"] for c in channels} == known


def test_what_is_fetched_through_a_mirror_keeps_its_names():
    words = check_host("h", {"vllm_instances": [ONE]}, DATA).words
    assert words is not None
    behind = plan_host(words, facts(), DATA, name="h", site=Site(mirror="10.0.0.5:8080"))
    found = select([behind.model_dump(mode="json")])
    assert found["index_names"]["http://10.0.0.5:8080/pypi/default/simple/"] == "default"
    urls = {c["name"]: c["url"] for c in found["environments"][0]["channels"]}
    assert urls["main"] == "http://10.0.0.5:8080/conda/main"


def test_a_wheel_that_the_site_compiles_is_asked_of_no_index():
    host = made()
    host["wheel"] = {
        "key": "k", "project": "vllm", "version": "0.31.0+cpu", "python": "3.10",
        "architecture": "x86_64", "glibc": "2.36",
    }  # fmt: skip
    lines = select([host])["packages"][0]["requirements"]
    assert not [line for line in lines if line.startswith("vllm==")]
    assert [line for line in lines if line.startswith("torch==")]


def test_what_does_not_fit_into_one_bundle_is_refused():
    with pytest.raises(BundleError, match="no plans"):
        select([])
    arm = made()
    arm["miniconda"]["filename"] = "Miniconda3-py310_26.7.1-1-Linux-aarch64.sh"
    with pytest.raises(BundleError, match="one architecture"):
        select([made(), arm])
    other = made()
    other["miniconda"]["sha256"] = "0" * 64
    with pytest.raises(BundleError, match="two checksums"):
        select([made(), other])
