"""What an inventory may say about the lab, and how wrong words are answered."""

from dataclasses import replace

import pytest

from vllm_ansible.lab import LabError, LabSpec, LabWordsError
from vllm_ansible.paths import PROJECT

SHARED = {"lab_name": "lab", "lab_subnet": "10.97.53.0/24"}


def words(**changes):
    return {**SHARED, "lab_address": "10.97.53.11", **changes}


def problems(hosts):
    with pytest.raises(LabWordsError) as caught:
        LabSpec.from_vars(hosts)
    return caught.value.problems


@pytest.fixture(autouse=True)
def no_suite_in_the_environment(monkeypatch):
    monkeypatch.delenv("VLLM_LAB_SUITE", raising=False)


def test_a_lab_is_made_of_its_words():
    spec = LabSpec.from_vars({"cpu1": words(lab_packages=["nginx", "git"], lab_pip=["a==1"])})
    assert (spec.bridge, spec.table, str(spec.gateway)) == ("vl-lab", "vllm_lab", "10.97.53.1")
    assert spec.suite == "bookworm"
    assert spec.machine("cpu1").packages == ("git", "nginx")


def test_the_environment_chooses_the_suite(monkeypatch):
    monkeypatch.setenv("VLLM_LAB_SUITE", "trixie")
    assert LabSpec.from_vars({"cpu1": words()}).suite == "trixie"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lab_name": "a-name-too-long"}, "lab: lab_name: given 'a-name-too-long'"),
        ({"lab_name": "Lab"}, "lab_name"),
        ({"lab_name": "lab/../x"}, "lab_name"),
        ({"lab_subnet": "10.97.53.1/24"}, "lab_subnet"),
        ({"lab_subnet": "10.0.0.0/8"}, "lab_subnet"),
        ({"lab_subnet": 5}, "lab_subnet"),
        ({"lab_suite": "jammy"}, "bookworm, trixie"),
        ({"lab_memory_mib": "lots"}, "whole number of MiB"),
        ({"lab_disk_mib": -1}, "whole number of MiB"),
        ({"lab_dns": ["127.0.0.53"]}, "lab_dns"),
        ({"lab_dns": "10.0.0.1"}, "lab_dns"),
        ({"lab_address": "10.97.54.11"}, "10.97.53.2 to 10.97.53.254"),
        ({"lab_address": "10.97.53.1"}, "is the bridge's"),
        ({"lab_address": "10.97.53.255"}, "lab_address"),
        ({"lab_address": "{{ address }}"}, "literal IPv4 address"),
        ({"lab_packages": "nginx"}, "lab_packages"),
        ({"lab_packages": ["nginx; rm"]}, "lab_packages"),
        ({"lab_pip": ["--index-url=http://x"]}, "lab_pip"),
        ({"lab_seed": "no/such/directory"}, "no/such/directory"),
        ({"lab_binds": ["/etc"]}, "/path/here:/path/in/the/machine"),
        ({"lab_binds": ["/no/such/place:/srv"]}, "/no/such/place does not"),
        ({"lab_adress": "10.97.53.11"}, "did you mean lab_address?"),
    ],
)
def test_a_wrong_word_is_named_with_what_is_allowed(changes, expected):
    assert any(expected in problem for problem in problems({"cpu1": words(**changes)}))


def test_all_problems_are_told_at_once():
    found = problems(
        {
            "cpu1": words(lab_suite="sid", lab_address="10.1.1.1"),
            "cpu2": words(lab_suite="sid", lab_packages="x"),
        }
    )
    text = "\n".join(found)
    assert all(word in text for word in ("lab_suite", "lab_address", "lab_packages"))


def test_two_machines_with_one_address_are_refused():
    found = problems({"cpu1": words(), "cpu2": words()})
    assert found == ("cpu2: lab_address: given '10.97.53.11'; allowed: one not yet cpu1's",)


def test_machines_of_one_lab_must_agree_on_it():
    found = problems(
        {
            "cpu1": words(),
            "cpu2": words(lab_address="10.97.53.12", lab_subnet="10.97.0.0/16"),
        }
    )
    assert "the machines disagree" in found[0]


def test_a_hosts_name_must_be_one():
    assert "the host's name" in problems({"cpu_1": words()})[0]
    assert "the host's name" in problems({"c" * 64: words()})[0]


def test_an_inventory_without_a_lab_says_which_one_has():
    assert "inventories/lab" in problems({})[0]


def test_the_words_about_the_origin_are_not_taken_for_misspelt_ones():
    LabSpec.from_vars({"cpu1": words(lab_manifest={}, lab_origin_url="http://x")})


def test_an_unknown_machine_is_answered_with_the_known_ones():
    with pytest.raises(LabError, match="it has cpu1"):
        LabSpec.from_vars({"cpu1": words()}).machine("cpu9")


@pytest.mark.parametrize(
    ("inventory", "name", "third"),
    [("inventories/lab", "lab", 53), ("molecule/inventory", "molecule", 54)],
)
def test_the_projects_own_labs_are_right(inventory, name, third):
    spec = LabSpec.from_inventory(PROJECT / inventory)
    assert spec.name == name
    assert spec.origin
    found = {one.name: str(one.address) for one in spec.machines}
    assert found == {"origin": f"10.97.{third}.2", "cpu1": f"10.97.{third}.11"}


def test_every_lab_has_the_same_origin_but_for_its_address():
    labs = sorted({*PROJECT.glob("inventories/lab*"), *PROJECT.glob("molecule/**/inventory")})
    origins = [LabSpec.from_inventory(lab).machine("origin") for lab in labs]
    assert len({one.address for one in origins}) == len(labs) > 2
    assert {replace(one, address=origins[0].address) for one in origins} == {origins[0]}
    assert origins[0].pip
    assert origins[0].seed == PROJECT / "tests/origin/rootfs"


def test_an_inventory_that_ansible_cannot_read_is_named(tmp_path):
    with pytest.raises(LabError, match="no such inventory"):
        LabSpec.from_inventory(tmp_path / "none")
