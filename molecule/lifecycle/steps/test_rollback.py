"""Going back: in seconds, without a network, and again; what is not kept is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conftest import Server, play, version

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = ["-e", "standin_engine='--token-delay 0.02'"]


def rollback(*words: str, fails: bool = False) -> str:
    return play("playbooks/rollback.yml", *words, fails=fails)


def test_what_is_not_kept_is_refused_with_what_is(server: Server) -> None:
    before = server.receipt(), server.process("tiny")
    text = rollback("-e", "rollback_to=0.29.0", fails=True)
    assert "no generation '0.29.0' is kept" in text
    assert "0.30.0-cpu-" in text
    assert (server.receipt(), server.process("tiny")) == before


def test_it_is_listed_what_is_kept(server: Server) -> None:
    text = rollback("-e", "rollback_list=true")
    assert server.receipt()["plan_digest"][:12] in text
    assert "0.30.0-cpu-" in text


def test_to_a_release_by_its_version_without_the_origin(
    server: Server, figure: Callable[[str], None]
) -> None:
    was = server.receipt()["plan_digest"]
    with server.asked("tiny") as tiny:
        rollback("-e", "rollback_to=0.30.0")
    assert (server.release(), server.running("tiny")) == ("0.30.0", "0.30.0")
    assert server.answers("tiny") == server.answers("other")
    receipt = server.receipt()
    assert receipt["content"]["release"]["version"] == "0.30.0"
    assert receipt["plan_digest"] != was
    assert len(tiny.outages) == 1, tiny.bad
    figure(f"rolled back; tiny was away for {tiny.outages[0]:.1f} s")


def test_back_from_going_back(server: Server) -> None:
    rollback()
    assert server.running("tiny") == "0.31.0"
    rollback()
    assert server.running("tiny") == "0.30.0"


def test_to_one_that_does_not_start_any_more_leaves_what_serves(server: Server) -> None:
    before = server.receipt()
    site = server.out("ls -d /opt/vllm/releases/0.31.0-*")
    server.out(f"mv {site}/bin/vllm {site}/bin/vllm.away")
    try:
        text = rollback(fails=True)
    finally:
        server.out(f"mv {site}/bin/vllm.away {site}/bin/vllm")
    assert "It serves what it served before" in text
    assert server.receipt() == before
    assert (server.running("tiny"), server.running("other")) == ("0.30.0", "0.30.0")
    assert server.litter() == []


def test_a_run_afterwards_carries_the_plan_out_and_gives_disk_back(server: Server) -> None:
    before = server.out("ls /opt/vllm/releases").split()
    assert {"0.31.91", "0.31.94", "0.31.95"} <= {name.partition("-")[0] for name in before}
    play("site.yml", *version("0.31.0"), *WORDS)
    assert server.running("tiny") == "0.31.0"
    # What failed is gone; what can be gone back to is not.
    kept = server.out("ls /opt/vllm/releases").split()
    assert sorted(name.partition("-")[0] for name in kept) == ["0.30.0", "0.31.0"]
