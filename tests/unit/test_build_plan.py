"""Which compiled wheel a host can load, who compiles, and what a build host must be."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.test_plan import DATA, ONE, TORCH_INDEX, facts
from vllm_ansible.plan import PlanError, plan_host
from vllm_ansible.plan.build import plan_build
from vllm_ansible.plan.result import WheelOrder
from vllm_ansible.plan.site import Site
from vllm_ansible.plan.wheels import Kept, choose, reasons, to_compile, unfit
from vllm_ansible.schema import check_host

KEY = "0.31.0-cpu-py3.11-0123456789ab"
NAME = "vllm-0.31.0+cpu-cp311-cp311-manylinux_2_38_x86_64.whl"


def order(**differs: Any) -> WheelOrder:
    usual = {
        "key": KEY, "version": "0.31.0+cpu", "python": "3.11", "architecture": "x86_64",
        "glibc": "2.41",
    }  # fmt: skip
    return WheelOrder.model_validate({**usual, **differs})


UNFIT = [
    # the wheel, what differs in the host, what is said
    (NAME, {"glibc": "2.36"}, "needs glibc 2.38, the host has 2.36: let a host with glibc 2.36"),
    (NAME, {"python": "3.10"}, "is for Python cp311, the host has cp310"),
    (NAME, {"architecture": "aarch64"}, "is for x86_64, the host is aarch64"),
    (NAME, {"version": "0.30.0+cpu"}, "is not vllm 0.30.0+cpu"),
    (NAME.replace("manylinux_2_38", "linux"), {}, "does not say which glibc it needs"),
    (NAME.replace("cp311-cp311", "cp312-abi3"), {}, "is for Python cp312 and newer"),
    ("vllm.whl", {}, "is no wheel's name"),
]


@pytest.mark.parametrize(("name", "differs", "says"), UNFIT)
def test_a_host_gets_no_wheel_that_it_cannot_load(name, differs, says):
    assert says in str(unfit(name, order(**differs)))
    kept = [Kept(KEY, name, "a" * 64)]
    assert choose(order(**differs), kept) is None
    assert says in reasons(order(**differs), kept)[0]


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        (NAME, {}),
        (NAME, {"glibc": "2.38"}),
        (NAME, {"glibc": None}),
        (NAME.replace("cp311-cp311", "cp38-abi3"), {}),
        (NAME.replace("2_38", "2_9"), {"glibc": "2.31"}),
    ],
)
def test_a_wheel_that_the_host_can_load_is_taken(name, differs):
    assert choose(order(**differs), [Kept(KEY, name, "a" * 64)]) == Kept(KEY, name, "a" * 64)


def test_a_wheel_of_another_key_is_not_taken():
    assert choose(order(), [Kept("other", NAME, "a" * 64)]) is None


def test_each_host_gets_the_wheel_that_it_can_load():
    old = NAME.replace("2_38", "2_28")
    kept = [Kept(KEY, NAME, "a" * 64), Kept(KEY, old, "b" * 64)]
    assert choose(order(glibc="2.36"), kept) == kept[1]
    assert choose(order(), kept) == kept[0]


def test_one_host_compiles_for_all_and_what_is_kept_is_not_compiled_again():
    orders = {"a": order(), "b": order(glibc="2.39"), "c": order(key="other")}
    assert to_compile(orders, [], "builder") == {
        KEY: ("builder", ["a", "b"]),
        "other": ("builder", ["c"]),
    }
    assert to_compile(orders, [], None) == {KEY: ("b", ["a", "b"]), "other": ("c", ["c"])}
    kept = [Kept(KEY, NAME, "a" * 64)]
    assert to_compile(orders, kept, "builder") == {"other": ("builder", ["c"])}


def test_a_host_that_no_kept_wheel_fits_makes_a_build_and_the_others_do_not_wait_for_it():
    orders = {"new": order(), "old": order(glibc="2.35")}
    kept = [Kept(KEY, NAME, "a" * 64)]
    assert to_compile(orders, kept, None) == {KEY: ("old", ["old"])}


# -- the build host -------------------------------------------------------------------------


def build(
    on: dict[str, Any] | None = None, sources: dict[str, Any] | None = None,
    site: Site | None = None, **engine: Any,
):  # fmt: skip
    said = {
        "vllm_instances": [ONE],
        "vllm_engine": {"install": "source", "device": "cpu", **engine},
        "vllm_sources": sources or {},
    }
    checked = check_host("h", said, DATA)
    assert checked.words is not None, checked.problems
    waiting = plan_host(checked.words, facts(), DATA, name="h").wheel
    assert waiting is not None
    builder = facts(**{"reachable": {TORCH_INDEX: True}, **(on or {})})
    return plan_build(
        "b", {"h": waiting}, checked.words, builder, DATA, site or Site(), onednn_sha256="c" * 64
    )


def test_a_build_never_has_more_compilers_than_memory_and_cores_allow():
    assert build({"cores": 64, "memory_mib": 9500}).jobs == 4
    assert build({"cores": 2, "memory_mib": 64000}).jobs == 2
    assert build({"cores": 64, "memory_mib": 64000}, jobs=7).jobs == 7


BUILDERS = [
    # facts of the build host, engine, what is said
    ({"memory_mib": 2000}, {}, "1 compiler(s) need 3072 MiB, it has 2000"),
    ({"memory_mib": 8000}, {"jobs": 8}, "8 compiler(s) need 17408 MiB, it has 8000"),
    ({"disk_free_mib": {"/var": 5000}}, {}, "needs 6000 MiB in /var, 5000 are free"),
    ({"architecture": "aarch64"}, {}, "it is aarch64, the wheel is wanted for x86_64"),
    ({"glibc": "2.41"}, {}, "it has glibc 2.41; what it compiles may not load on h (2.36)"),
    (
        {"reachable": {}},
        {},
        f"no place of it that this host was asked about answers (torch_indexes: {TORCH_INDEX};",
    ),
]


@pytest.mark.parametrize(("on", "engine", "says"), BUILDERS)
def test_a_host_that_cannot_build_is_refused_before_it_begins(on, engine, says):
    with pytest.raises(PlanError) as error:
        build(on, **engine)
    assert says in str(error.value)
    assert str(error.value).startswith("b: as the build host: ")


def test_a_build_has_torch_s_build_for_cpu_whatever_the_host_had_before():
    places = build().packages
    assert "torch==2.13.0+cpu" in places.requirements
    assert places.indexes == [TORCH_INDEX]
    # Its receipt says where the engine's torch once came from.
    release = {"version": "0.31.0", "device": "cpu", "python": "3.10"}
    had = {"receipt": {"content": {"release": release | {"torch_source": "default-index"}}}}
    assert "torch==2.13.0+cpu" in build(had).packages.requirements
    had["receipt"]["content"]["release"]["torch_source"] = "cpu-index"
    with pytest.raises(PlanError, match="needs torch's build for CPU"):
        build(had | {"reachable": {}})


def test_torch_for_a_build_may_lie_in_a_directory_of_the_build_host():
    listing = "file:///srv/wheels"
    said = {"packages": {"torch_indexes": [], "torch_find_links": [listing]}}
    found = build({"reachable": {listing: True}}, said).packages
    assert (found.indexes, found.find_links) == ([], [listing])
    with pytest.raises(PlanError) as error:
        build({"reachable": {listing: False}}, said)
    assert f"torch_indexes: none; torch_find_links: {listing}" in str(error.value)
    assert "give in vllm_sources.packages one that does" in str(error.value)


def test_behind_a_mirror_host_its_answers_count_for_a_build():
    off: dict[str, Any] = {"reachable": {}}
    door = "10.0.0.3:8080"
    assert build(off, site=Site(mirror=door, answers={TORCH_INDEX: True})).packages.indexes == [
        f"http://{door}/pypi/torch/simple/"
    ]
    assert build(off, site=Site(mirror=door, indexes=["torch"])).packages.indexes
    with pytest.raises(PlanError, match="the mirror host was asked about"):
        build(site=Site(mirror=door))


def test_conda_forge_s_compiler_may_build_on_a_newer_system():
    assert build({"glibc": "2.41"}, compiler="conda").compiler == "conda"


def test_a_build_knows_its_files_and_pins_by_version():
    current = build()
    assert current.requirements_file == "requirements/build/cpu.txt"
    names = {pin.split("==")[0] for pin in current.packages.requirements}
    assert {"torch", "cmake", "ninja", "setuptools"} <= names
    assert "vllm" not in names
    assert "transformers" not in names
    old = build(version="0.11.0", accept_vulnerable=True)
    assert old.requirements_file == "requirements/cpu-build.txt"


def test_sources_come_from_the_index_or_from_the_repositories_in_order():
    assert build().source["kind"] == "sdist"
    urls = build(source="git").source["urls"]
    assert urls[0].startswith("https://gitee.com/")
    mine = build(sources={"git": ["https://git.example.com/vllm.git"]}, source="git")
    assert mine.source["urls"] == ["https://git.example.com/vllm.git"]


def test_onednn_comes_from_an_archive_of_the_controller_or_from_addresses(tmp_path):
    archive = tmp_path / "onednn.tar.gz"
    archive.write_bytes(b"x")
    given = build(sources={"onednn": {"archive": str(archive)}}).onednn
    assert given == {"sha256": "c" * 64, "tag": "v3.13", "archive": str(archive)}
    fetched = build(
        sources={"onednn": {"urls": ["https://a.example/o.tar.gz"], "sha256": "d" * 64}}
    ).onednn
    assert fetched["urls"] == ["https://a.example/o.tar.gz"]
    assert build().onednn == {}
