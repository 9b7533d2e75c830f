"""What a mirror says of itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.unit.modules.conftest import write_program
from tests.unit.modules.test_fetch_artifact import source

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.modules.conftest import ModuleRunner

__all__ = ["source"]


def test_what_is_held_is_told(module: ModuleRunner, tmp_path: Path) -> None:
    files = {"wheels/k/vllm.whl": {"size": 1, "sha256": "0" * 64}}
    (tmp_path / "store").mkdir()
    (tmp_path / "store/manifest.json").write_text(json.dumps(files))
    for revision in ("a" * 40, "b" * 40):
        (tmp_path / "models/chat" / revision).mkdir(parents=True)
    # The second has no manifest: it is not whole. Of the third only the manifest is left.
    (tmp_path / f"models/chat/{'a' * 40}.json").write_text("{}")
    (tmp_path / f"models/chat/{'c' * 40}.json").write_text("{}")
    facts = module(root=str(tmp_path))["facts"]
    assert facts["files"] == files
    assert facts["models"] == {"chat": ["a" * 40]}
    assert facts["free_mib"] > 0


def test_a_machine_that_is_no_mirror_yet_holds_nothing(
    module: ModuleRunner, tmp_path: Path
) -> None:
    facts = module(root=str(tmp_path / "none"), resolv_conf=str(tmp_path / "none"))["facts"]
    assert facts["files"] == facts["models"] == {}
    assert facts["nameservers"] == []
    assert facts["free_mib"] > 0


def test_a_damaged_manifest_counts_as_none(module: ModuleRunner, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/manifest.json").write_text("{")
    assert module(root=str(tmp_path))["facts"]["files"] == {}


def test_name_servers_are_written_as_nginx_takes_them(module: ModuleRunner, tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# by hand\nsearch example.org\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n"
        "nameserver fe80::1%eth0\nnameserver\n"
    )
    facts = module(resolv_conf=str(path))["facts"]
    assert facts["nameservers"] == ["192.0.2.1", "[2001:db8::1]"]


def test_which_addresses_answer_is_told(module: ModuleRunner, source: str) -> None:
    urls = [f"{source}/good", f"{source}/403"]
    facts = module(urls=urls)["facts"]
    assert facts["reachable"] == dict(zip(urls, (True, False), strict=True))
    assert facts["unreachable"] == {urls[1]: "status 403"}


def test_an_address_with_a_password_is_refused(module: ModuleRunner) -> None:
    assert "urls" in module(urls=["http://me:secret@example.org/"], fails=True)["msg"]


def test_nginxs_version_is_read_from_what_it_prints(module: ModuleRunner, tmp_path: Path) -> None:
    program = write_program(tmp_path / "nginx", "#!/bin/sh\necho nginx version: nginx/1.18.0 >&2\n")
    facts = module(nginx=str(program))["facts"]
    assert facts["nginx"] == "1.18.0"
    assert module(nginx=str(tmp_path / "none"))["facts"]["nginx"] is None
