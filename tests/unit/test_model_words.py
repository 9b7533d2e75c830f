"""Where models come from, how fast, with whose token: the words, and what is planned of them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.standins.hubs import Hubs
from tests.unit.test_plan import facts
from tests.unit.test_schema import COMMIT, ONE, SOURCE, check, lines
from vllm_ansible import paths
from vllm_ansible.data import project_data
from vllm_ansible.plan import PlanError, plan_host
from vllm_ansible.plan.site import Site

TOKEN = "hf_" + "s3cr3t" * 5
HUB = {"kind": "huggingface", "url": "https://huggingface.co/own/gated"}
SUM = {"size": 1, "sha256": "0" * 64}
FILES = {"files": {"model.safetensors": SUM}}


def model(*sources: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"vllm_models": {"m": {"revision": COMMIT, "sources": list(sources), **more}}}


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (model({**HUB, "url": "file:///srv/m"}), "sources[0].url", "https://"),
    (model({"kind": "directory", "url": "https://h/m"}), "sources[0].url", "file:///"),
    (model({"kind": "archive", "url": "ssh://h/m.tar"}), "sources[0].url", "file:///"),
    (model({"kind": "archive", "url": "https://h/m.tar"}), "sources[0].sha256", "or the model's"),
    (model({**HUB, "sha256": "0" * 64}), "sources[0].sha256", "for an archive"),
    (model({**HUB, "branch": "master"}), "sources[0].branch", "a commit in revision, or files"),
    (model({**HUB, "branch": "m", "revision": COMMIT}, **FILES), "sources[0].branch", "nothing"),
    (model({**SOURCE, "branch": "m"}, **FILES), "sources[0].branch", "for hugging"),
    (model({**HUB, "branch": "--x"}, **FILES), "sources[0].branch", "text that matches"),
    (model({**HUB, "kind": "torrent"}), "sources[0].kind", "'huggingface'"),
    (model(HUB, size_bytes=0, **FILES), "size_bytes", "add up to, 1"),
    (model({**HUB, "token_file": "token"}), "sources[0].token_file", "absolute path"),
    (model({**HUB, "token_file": "/no/token"}), "sources[0].token_file", "No such file"),
    ({"vllm_downloads": {"parallel": 0}}, "vllm_downloads.parallel", "greater than"),
    ({"vllm_downloads": {"limit_mib_s": 0}}, "vllm_downloads.limit_mib_s", "greater than 0"),
    ({"vllm_downloads": {"limit": 5}}, "vllm_downloads.limit", "limit_mib_s"),
    ({"vllm_download": {}}, "vllm_download", "did you mean vllm_downloads?"),
]


@pytest.mark.parametrize(("words", "variable", "says"), REFUSED)
def test_what_cannot_be_meant_is_refused(words, variable, says):
    found = [line for line in lines(**words) if variable in line]
    assert found, lines(**words)
    assert any(says in line for line in found), found


@pytest.mark.parametrize(
    "source",
    [
        HUB,
        {"kind": "modelscope", "url": "https://www.modelscope.cn/own/m", "revision": "b" * 40},
        {"kind": "directory", "url": "file:///srv/m"},
        {"kind": "archive", "url": "file:///srv/m.tar", "sha256": "0" * 64},
        {"kind": "files", "url": "http://10.0.0.5:8080/models/m/"},
    ],
)
def test_each_kind_is_accepted(source):
    assert lines(**model(source)) == []


def test_a_branch_with_a_manifest_is_accepted():
    assert lines(**model({**HUB, "branch": "master"}, **FILES)) == []


PATH = "vllm_models.m.sources[0].token"


def test_a_token_in_clear_text_is_refused_and_not_repeated():
    found = lines(**model({**HUB, "token": TOKEN}))
    assert any(PATH in line and "token_file, a !vault value" in line for line in found)
    assert TOKEN not in "\n".join(found)


def test_a_vaulted_token_passes_and_does_not_show():
    checked = check((PATH,), **model({**HUB, "token": TOKEN}))
    assert checked.problems == []
    assert TOKEN not in repr(checked.words)


@pytest.mark.parametrize("bad", ["two words", "short", 'quote"quote"quote"quote'])
def test_a_token_that_a_header_cannot_carry_is_refused_and_not_repeated(bad):
    found = lines((PATH,), **model({**HUB, "token": bad}))
    assert any(PATH in line and "16 to 256 characters" in line for line in found)
    assert bad not in "\n".join(found)


def test_a_token_goes_to_no_address_where_it_would_be_seen():
    plain = {**HUB, "url": "http://hub.example.com/own/gated", "token": TOKEN}
    assert any("not https" in line for line in lines((PATH,), **model(plain)))


@pytest.mark.parametrize(
    ("mode", "content", "says"),
    [(0o644, TOKEN, "chmod 600"), (0o600, "two words", "one line"), (0o600, TOKEN, None)],
)
def test_the_token_file_is_readable_by_its_owner_alone(tmp_path, mode, content, says):
    file = tmp_path / "token"
    file.write_text(content)
    file.chmod(mode)
    found = lines(**model({**HUB, "token_file": str(file)}))
    assert bool(found) == bool(says)
    assert all(says in line for line in found)
    both = {**HUB, "token_file": str(file), "token": TOKEN}
    assert any("one of the two" in line for line in lines((PATH,), **model(both)))


def planned(words: dict[str, Any], sealed: tuple[str, ...] = (), **more: Any) -> Any:
    said = {"vllm_instances": [{**ONE, "model": "m"}], **words}
    checked = check(sealed, **said)
    assert checked.words is not None, checked.problems
    return plan_host(checked.words, facts(), project_data(), name="h", **more)


def test_the_plan_has_a_fingerprint_in_the_place_of_a_token():
    words = model({**HUB, "token": TOKEN}, HUB, size_bytes=2**30)
    prints = {"vllm_models.m.sources[0]": "f" * 16}
    plan = planned(words, (PATH,), secret_fingerprints=prints)
    [snapshot] = plan.models
    assert [one.get("credential") for one in snapshot.sources] == ["f" * 16, None]
    assert TOKEN not in plan.model_dump_json()
    assert snapshot.size_bytes == 2**30
    # Another token is no reason to touch a host.
    prints = {"vllm_models.m.sources[0]": "e" * 16}
    assert planned(words, (PATH,), secret_fingerprints=prints).digest == plan.digest


def test_behind_a_mirror_host_no_server_asks_with_a_token():
    words = model({**HUB, "token": TOKEN}, size_bytes=2**30)
    prints = {"vllm_models.m.sources[0]": "f" * 16}
    plan = planned(words, (PATH,), secret_fingerprints=prints, site=Site(mirror="10.0.0.5:8080"))
    assert [set(one) for one in plan.models[0].sources] == [{"kind", "url"}]
    assert plan.needs.models[0].sources[0]["credential"] == "f" * 16


def test_bounds_of_downloads_reach_each_snapshot_and_no_digest():
    plain = planned(model({"kind": "files", "url": "http://h/m/"}))
    words = model({"kind": "files", "url": "http://h/m/"})
    plan = planned({**words, "vllm_downloads": {"parallel": 8, "limit_mib_s": 2.5}})
    assert (plan.models[0].parallel, plan.models[0].limit_mib_s) == (8, 2.5)
    assert plan.digest == plain.digest


def test_a_limit_that_no_source_can_hold_is_refused_with_the_way_out():
    words = {**model(HUB, SOURCE), "vllm_downloads": {"limit_mib_s": 5}}
    with pytest.raises(PlanError, match=r"git-lfs, huggingface alone.*archive, files"):
        planned(words)


@pytest.mark.parametrize(("kind", "fits"), [("huggingface", True), ("git-lfs", False)])
def test_the_disk_is_asked_for_what_a_source_needs_while_it_fetches(kind, fits):
    words = model({**HUB, "kind": kind}, size_bytes=10 * 2**30)
    said = check(**{"vllm_instances": [{**ONE, "model": "m", "kv_cache_gib": 1}], **words})
    assert said.words is not None, said.problems
    host = facts(memory_mib=64 * 1024, disk_free_mib={"/opt": 20_000, "/srv": 15_000})
    if fits:
        plan_host(said.words, host, project_data(), name="h")
        return
    with pytest.raises(PlanError, match=r"need 20480 MiB in /srv.*15000 are free"):
        plan_host(said.words, host, project_data(), name="h")


PLAY = """
- hosts: h
  gather_facts: false
  connection: local
  vars: {ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  tasks:
    - source_tokens:
        servers: true
      register: vllm_site_tokens
      no_log: true
    - include_role: {name: model, tasks_from: fetch}
      vars:
        model_root: "{{ place }}/models"
        model_clients: "{{ place }}/none"
        model_tokens: "{{ vllm_site_tokens.tokens }}"
        model_snapshots:
          - name: tiny
            revision: "{{ 'a' * 40 }}"
            path: "{{ place }}/models/tiny/{{ 'a' * 40 }}"
            sources:
              - kind: files
                url: "{{ hub }}/static/tiny/"
                credential: "{{ vllm_site_tokens.tokens.keys() | first }}"
"""


def test_a_run_that_says_all_it_does_says_no_token(tmp_path: Path):
    (tmp_path / "static/tiny").mkdir(parents=True)
    (tmp_path / "static/tiny/a.json").write_text("{}")
    told = {"a.json": {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}}
    (tmp_path / "static/tiny.json").write_text(json.dumps(told))
    secret = tmp_path / "token"
    secret.write_text(TOKEN)
    secret.chmod(0o600)
    hosts = {"h": {"vllm_models": model({**HUB, "token_file": str(secret)})["vllm_models"]}}
    (tmp_path / "hosts.json").write_text(
        json.dumps({"all": {"children": {"vllm": {"hosts": hosts}}}})
    )
    (tmp_path / "play.yml").write_text(PLAY)
    hubs = Hubs(token=TOKEN, static=tmp_path / "static").start()
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-vvv", "--diff"]
    argv += ["-i", str(tmp_path / "hosts.json"), str(tmp_path / "play.yml")]
    argv += ["-e", f"place={tmp_path}", "-e", f"hub={hubs.url}"]
    env = {**os.environ, "ANSIBLE_CONFIG": str(paths.PROJECT / "ansible.cfg"),
           "ANSIBLE_STDOUT_CALLBACK": "default", "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
           "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote")}  # fmt: skip
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    hubs.stop()
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert (tmp_path / "models/tiny" / ("a" * 40) / "a.json").is_file()
    assert any(one.authorization == f"Bearer {TOKEN}" for one in hubs.asked)
    assert TOKEN not in ended.stdout + ended.stderr
    left = [p for p in tmp_path.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert left == [secret]
