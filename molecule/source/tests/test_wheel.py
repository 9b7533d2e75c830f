"""The wheel tells the truth about itself, and was compiled once."""

import json

from conftest import BASE

# Reads the wheel as an installer does: its own words, and each file against RECORD.
EXAMINE = r"""
import base64, csv, hashlib, io, json, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    info = next(n for n in wheel.namelist() if n.endswith(".dist-info/WHEEL")).rpartition("/")[0]
    lines = wheel.read(info + "/WHEEL").decode().splitlines()
    tags = [line[5:] for line in lines if line.startswith("Tag: ")]
    wrong = []
    for name, digest, size in csv.reader(io.StringIO(wheel.read(info + "/RECORD").decode())):
        if name.endswith("/RECORD"):
            continue
        found = base64.urlsafe_b64encode(hashlib.sha256(wheel.read(name)).digest())
        if digest != "sha256=" + found.rstrip(b"=").decode():
            wrong.append(name)
    words = wheel.read(info + "/METADATA").decode().splitlines()
    print(json.dumps({"tags": tags, "wrong": wrong, "info": info, "words": words}))
"""


def test_the_tag_names_the_oldest_glibc_that_the_wheel_runs_on(build):
    # Debian 13's headers make of strtol a function that came with glibc 2.38.
    assert build["tag"] == "cp310-abi3-manylinux_2_38_x86_64"
    assert build["needs"]["GLIBC"] == "2.38"
    assert build["modules"] == {"vllm/_C.abi3.so": "loads"}


def test_the_wheel_is_what_its_name_and_record_say(builder, build, wheel):
    assert build["filename"] == f"vllm-0.31.0+cpu-{build['tag']}.whl"
    assert builder.file(wheel).sha256sum == build["sha256"]
    code = EXAMINE.replace("'", "'\"'\"'")
    seen = json.loads(builder.check_output(f"python3 -c '{code}' {wheel}"))
    assert seen["tags"] == [build["tag"]]
    assert seen["wrong"] == []
    assert seen["info"] == "vllm-0.31.0+cpu.dist-info"
    assert {"Name: vllm", "Version: 0.31.0+cpu"} <= set(seen["words"])


def test_it_was_compiled_by_a_new_enough_compiler_in_steps(build):
    assert build["compiler"].startswith("/usr/bin/g++-12 12.")
    assert build["steps"] == 10


def test_the_sources_came_from_the_repository_that_lives(build):
    assert build["source"]["kind"] == "git"
    assert build["source"]["url"].endswith("/mini/vllm.git")


def test_it_was_compiled_once(builder, site_key):
    unit = f"vllm-build-{site_key}.service"
    # "A unit has been started", as systemd says it whatever its language.
    started = builder.check_output(
        f"journalctl -o cat UNIT={unit} MESSAGE_ID=39f53479d3a045ac8e11786248231fbf"
    )
    assert len(started.splitlines()) == 1


def test_the_work_is_cleared_away_and_the_log_kept(builder, site_key):
    assert not builder.file(f"{BASE}/work/{site_key}").exists
    assert "[10/10]" in builder.file(f"{BASE}/logs/{site_key}.log").content_string
    assert builder.file(f"{BASE}/ccache").is_directory


def test_broken_sources_left_no_wheel(builder):
    names = builder.check_output(f"find {BASE} -name '*.whl'").split()
    assert names
    assert not [name for name in names if "/broken/" in name or "0.31.1" in name]
    assert not builder.file(f"{BASE}/wheels/broken").exists
