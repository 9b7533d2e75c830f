"""What is broken does not take down what serves: each kind, while somebody asks all the time."""

from __future__ import annotations

import json

import pytest
from conftest import Server, play, version

WORDS = ["-e", "standin_engine='--token-delay 0.02'"]
REFUSED = {"life_extra_args": {"speculative-config": {"refuse": True}}}
# What, its words, what is said, and whether the switch is reached, so that a restart is seen.
UNTRIED = ["-e", json.dumps({"vllm_releases": {"keep": 3, "trial": False}})]
BROKEN = [
    ("cannot be imported", version("0.31.91"), "loads its kernels", False),
    ("is never healthy", version("0.31.94"), "was not ready within 15 s", False),
    ("answers with an error", version("0.31.95"), "status 500", False),
    ("a word that only the engine refuses",
     [*version("0.31.0"), "-e", json.dumps(REFUSED)], "did not pass", False),
    ("the same where nothing is tried, by the configuration's proof",
     [*version("0.31.0"), "-e", json.dumps(REFUSED), *UNTRIED], "did not pass", False),
    ("not tried beside the old one, and answers with an error",
     [*version("0.31.95"), *UNTRIED], "status 500", True),
]  # fmt: skip


@pytest.mark.parametrize(("what", "words", "says", "switches"), BROKEN, ids=[b[0] for b in BROKEN])
def test_the_old_one_serves_on(
    server: Server, what: str, words: list[str], says: str, switches: bool
) -> None:
    before = server.receipt()
    processes = server.process("tiny"), server.process("other")
    with server.asked("tiny") as tiny, server.asked("other") as other:
        text = play("playbooks/upgrade.yml", *WORDS, *words, fails=True)
    assert says in text, what
    assert "Nothing was lost: the host serves 0.31.0-cpu-" in text
    assert server.receipt() == before
    assert (server.release(), server.running("tiny")) == ("0.31.0", "0.31.0")
    assert server.answers("tiny") == server.answers("other")
    assert server.litter() == []
    # What is not proved is never switched to: nobody noticed.
    assert (tiny.bad == []) == (not switches), tiny.bad
    assert other.bad == []
    after = server.process("tiny"), server.process("other")
    assert (after[0] == processes[0]) == (not switches)
    assert after[1] == processes[1]


def test_an_instance_that_cannot_start_does_not_stay_nor_touch_the_others(server: Server) -> None:
    instances = [
        {"name": name, "model": "tiny", "port": port, "served_names": [name],
         "max_model_len": 1024, "kv_cache_gib": 1, "compile": False, "ready_timeout": 15,
         "env": {"STANDIN_ENGINE": engine, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}}
        for name, port, engine in (("tiny", 8000, "--token-delay 0.02"), ("other", 8001, ""),
                                   ("third", 8002, "--exit-after 0.1"))
    ]  # fmt: skip
    with server.asked("other") as other:
        said = play(
            "site.yml", *version("0.31.0"), "-e", json.dumps({"vllm_instances": instances}),
            fails=True,
        )  # fmt: skip
    assert "Nothing was lost" in said
    assert other.bad == []
    assert server.out("systemctl list-units --all --plain --no-legend 'vllm@third*'") == ""
    assert server.out("ls /etc/vllm | grep -c third || true") == "0"
    assert server.litter() == []
