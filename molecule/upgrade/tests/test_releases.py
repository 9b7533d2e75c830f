"""From one vLLM to the next and back, asked all the while: the real engine and model."""

import time

from conftest import INVENTORY

from tests.instances import play

KERNELS = "find /var/cache/vllm/chat -name '*.so'"


def changed(chat, figure, playbook, what):
    """Run a playbook while somebody asks, note how long that took, and return its output."""
    began = time.monotonic()
    with chat.asked() as somebody:
        output = play(playbook, INVENTORY)
    figure(
        f"{what}: {time.monotonic() - began:.0f} s, of which nobody was answered for "
        f"{sum(somebody.outages):.0f}; {somebody.good} answers besides"
    )
    # It was away for its own restart and for nothing else.
    assert len(somebody.outages) == 1, somebody.bad
    return output


def test_the_old_release_answers_and_has_compiled(chat):
    assert chat.release() == "0.30.0"
    assert "Paris" in chat.ask().json()["choices"][0]["text"]
    assert chat.host.check_output(f"{KERNELS} -print -quit")


def test_a_new_release_is_tried_beside_the_old_one_and_switched_to(chat, figure):
    output = changed(chat, figure, "playbooks/upgrade.yml", "0.30.0 to 0.31.0")
    assert "What is next answers beside what serves: chat" in output
    assert chat.release() == "0.31.0"
    assert "Paris" in chat.ask().json()["choices"][0]["text"]


def test_what_its_trial_compiled_was_not_compiled_again(chat, figure):
    begun = chat.shown("ExecMainStartTimestamp")
    again = chat.host.check_output(f"{KERNELS} -newermt '{begun}'").split()
    found = chat.host.check_output(f"{KERNELS} ! -newermt '{begun}'").split()
    figure(f"{len(again)} kernels were compiled after the switch, {len(found)} before it")
    # A few are made for what is asked, and users ask other things than a trial does.
    assert len(again) * 5 < len(found), again


def test_back_and_forth(chat, figure):
    changed(chat, figure, "playbooks/rollback.yml", "back to 0.30.0")
    assert chat.release() == "0.30.0"
    changed(chat, figure, "playbooks/rollback.yml", "and to 0.31.0 again")
    assert chat.release() == "0.31.0"
    assert "Paris" in chat.ask().json()["choices"][0]["text"]
