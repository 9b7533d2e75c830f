"""Conda, the release and the model on the machine."""

import hashlib
import json
import re
import shlex

import pytest
from conftest import INSTANCE, MODEL, SERVERS, UNIT

testinfra_hosts = SERVERS
CURRENT = "/opt/vllm/current"
PLUGINS = "/etc/vllm/python.d"
# What the plugin says of weights, and how far its product is from torch's own.
WEIGHTS = """
import json, torch, half_weights
torch.manual_seed(0)
weight = torch.randn(96, 64).bfloat16().float()
x, bias = torch.randn(3, 5, 64), torch.randn(96)
product = half_weights.Linear(weight)(x, None, bias)
print(json.dumps({
    "of 16 bits": half_weights.fits(weight),
    "of 32 bits": half_weights.fits(torch.randn(96, 64)),
    "too large for float16": half_weights.fits(weight * 2.0**20),
    "as small as a weight can be": half_weights.fits(weight * 2.0**-30),
    "far": (product - torch.nn.functional.linear(x, weight, bias)).abs().max().item(),
}))
"""


@pytest.fixture(scope="module")
def packages(host):
    code = (
        "import importlib.metadata as m, json; "
        'print(json.dumps({str(d.metadata["Name"]).lower(): d.version for d in m.distributions()}))'
    )
    return json.loads(host.check_output(f"{CURRENT}/bin/python -c '{code}'"))


def test_current_points_at_a_release(host):
    target = host.file(CURRENT).linked_to
    assert target.startswith("/opt/vllm/releases/0.31.0-cpu-")
    assert host.file(f"{target}/conda-meta/history").exists


def test_the_environment_has_python_3_10(host):
    assert host.check_output(f"{CURRENT}/bin/python --version").startswith("Python 3.10.")


def test_vllm_is_the_cpu_build_of_the_planned_version(packages):
    assert packages["vllm"] == "0.31.0+cpu"
    assert packages["torch"].partition("+")[0] == "2.13.0"


def test_packages_that_break_the_engine_are_left_out(packages):
    assert not {"torchvision", "torchaudio", "torchcodec"} & set(packages)


def test_the_release_is_what_the_receipt_says(host, receipt):
    assert host.file(CURRENT).linked_to == receipt["content"]["release"]["path"]


def test_conda_answers_and_uses_the_planned_channels(host):
    shown = json.loads(host.check_output("/opt/miniconda3/bin/conda config --show --json"))
    assert shown["show_channel_urls"] is True
    assert len(shown["default_channels"]) == 1
    # Of the mirror host, where there is one, else of the origin.
    assert shown["default_channels"][0].endswith("/main")
    assert "conda-forge" in shown["custom_channels"]
    for channel in ("pkgs/free", "pkgs/r", "msys2"):
        assert channel not in json.dumps(shown["default_channels"])


def test_a_user_activates_the_release_by_name(host):
    # An interactive shell, as a person's: it reads .bashrc.
    code = "import sys, vllm; print(sys.prefix, vllm.__version__)"
    command = f"""bash -ic 'conda activate vllm && python -c "{code}"' 2>/dev/null"""
    prefix, version = host.check_output(command).splitlines()[-1].split()
    assert prefix in {"/opt/miniconda3/envs/vllm", host.file(CURRENT).linked_to}
    assert version.startswith("0.31.0")


def test_the_installer_left_no_litter(host):
    assert host.run("ls /var/cache/vllm-ansible/*.sh").rc != 0


@pytest.fixture(scope="module")
def snapshot(host):
    manifests = host.check_output(f"ls /srv/models/{MODEL}/*.json").split()
    assert len(manifests) == 1
    return manifests[0].removesuffix(".json"), json.loads(host.file(manifests[0]).content_string)


def test_every_file_of_the_model_is_whole(host, snapshot):
    path, manifest = snapshot
    assert "model.safetensors" in manifest["files"]
    for name, wanted in manifest["files"].items():
        found = host.file(f"{path}/{name}")
        assert found.size == wanted["size"], name
        assert found.sha256sum == wanted["sha256"], name


def test_the_model_takes_its_size_once(host, snapshot):
    path, manifest = snapshot
    size = sum(item["size"] for item in manifest["files"].values())
    used = int(host.check_output(f"du -sB1 /srv/models/{MODEL}").split()[0])
    assert used <= size * 1.05
    assert not host.file(f"{path}/.git").exists


def test_the_engine_cannot_change_its_model(host, snapshot):
    path, _ = snapshot
    assert host.run(f"runuser -u vllm -- test -r {path}/model.safetensors").rc == 0
    assert host.run(f"runuser -u vllm -- test -w {path}/model.safetensors").rc != 0
    assert host.run(f"runuser -u vllm -- touch {path}/x").rc != 0


def test_the_receipt_lists_what_is_there(host, receipt):
    listed = {item["path"] for item in receipt["files"]}
    assert "/etc/systemd/system/vllm@.service" in listed
    for item in receipt["files"]:
        if item.get("sha256"):
            content = host.file(item["path"]).content
            assert hashlib.sha256(content).hexdigest() == item["sha256"], item["path"]


def test_weights_of_16_bits_are_multiplied_as_they_are(host):
    if not host.file(f"{PLUGINS}/half_weights.py").exists:
        pytest.skip("this instance has no plugins")
    python = f"PYTHONPATH={PLUGINS} {CURRENT}/bin/python -B -c {shlex.quote(WEIGHTS)}"
    found = json.loads(host.check_output(python))
    assert found.pop("far") < 1e-4
    assert found == {
        "of 16 bits": True,
        "of 32 bits": False,
        "too large for float16": False,
        "as small as a weight can be": True,
    }


def test_the_engine_keeps_them_so_where_it_is_planned(host):
    if 'LINEAR_WEIGHTS="float16"' not in host.file(f"/etc/vllm/{INSTANCE}.env").content_string:
        pytest.skip("this processor computes with 16 bits")
    journal = host.check_output(f"journalctl -o cat -u {UNIT}")
    assert re.search(r"weights of [1-9]\d* layers are kept in float16", journal)
