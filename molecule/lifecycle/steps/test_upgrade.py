"""An upgrade switches once, when all is proved, and touches nothing that does not change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conftest import Server, play, version

if TYPE_CHECKING:
    from collections.abc import Callable


def test_it_serves_the_old_release(server: Server) -> None:
    assert (server.release(), server.running("tiny")) == ("0.30.0", "0.30.0")
    kept = server.out("ls /var/lib/vllm/generations").split()
    assert kept == [server.receipt()["plan_digest"][:12]]


def test_in_check_mode_it_says_what_it_would_do_and_does_nothing(server: Server) -> None:
    before = server.process("tiny"), server.receipt()
    text = play("playbooks/upgrade.yml", *version("0.31.0"), "--check")
    assert "cpu1: 0.30.0-cpu-" in text
    assert "check mode: nothing was done" in text
    assert (server.process("tiny"), server.receipt()) == before
    assert server.release() == "0.30.0"
    assert server.litter() == []


def test_a_new_release_is_tried_beside_the_old_one_and_then_switched_to(
    server: Server, figure: Callable[[str], None]
) -> None:
    with server.asked("tiny") as tiny, server.asked("other") as other:
        text = play("playbooks/upgrade.yml", *version("0.31.0"))
    assert "cpu1: 0.30.0-cpu-" in text
    assert " -> 0.31.0-cpu-" in text
    for name in ("tiny", "other"):
        assert f"What is next answers beside what serves: {name}" in text
        assert (server.running(name), server.answers(name)) == ("0.31.0", server.answers("tiny"))
    assert server.release() == "0.31.0"
    assert server.litter() == []
    # What the trial compiled was found by the instance.
    for name in ("tiny", "other"):
        kernels = f"/var/cache/vllm/{name}/inductor"
        assert server.out(f"cat {kernels}/kernel-0.30.0+cpu") == f"/run/vllm/{name}/api.sock"
        assert server.out(f"cat {kernels}/kernel-0.31.0+cpu") == f"/run/vllm/{name}.trial/api.sock"
        assert server.out(f"stat -c %U {kernels}/kernel-0.31.0+cpu") == "vllm"
    # Each was away for its own restart and for nothing else, though the run took far longer.
    for name, asker in (("tiny", tiny), ("other", other)):
        assert asker.good > 100
        assert len(asker.outages) == 1, asker.bad
        figure(f"upgraded; {name} was away for {asker.outages[0]:.1f} s")


def test_a_word_of_one_instance_restarts_that_one_alone(server: Server) -> None:
    before = server.process("other")
    with server.asked("other") as other:
        text = play("site.yml", *version("0.31.0"), "-e", "standin_engine='--token-delay 0.02'")
    assert server.process("other") == before
    assert other.bad == []
    assert "What is next answers beside what serves: tiny" in text
    assert "A double of it is in place: other" not in text
    assert server.litter() == []
    assert len(server.out("ls /var/lib/vllm/generations").split()) == 3


def test_what_was_changed_by_hand_is_put_right_and_read_again(server: Server) -> None:
    before = server.process("tiny"), server.process("other")
    server.out("sed -i 's/served-model-name/x-name/' /etc/vllm/tiny.yaml")
    play("site.yml", *version("0.31.0"), "-e", "standin_engine='--token-delay 0.02'")
    assert "served-model-name" in server.out("cat /etc/vllm/tiny.yaml")
    after = server.process("tiny"), server.process("other")
    assert after[0] != before[0]
    assert after[1] == before[1]
