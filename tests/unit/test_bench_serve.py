"""The comparison of engines: ratios, targets, equal numbers for all, the plan's own words."""

from __future__ import annotations

import io
import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors import TensorSpec, serialize_file
from typer.testing import CliRunner

from tests.instances import wait_for
from vllm_ansible.bench import serve_models
from vllm_ansible.bench.serve import Bench, Setting, one_round, rotated
from vllm_ansible.bench.serve_planned import moved, planned
from vllm_ansible.bench.serve_report import Bandwidth, Load, Round, ServeError, ServeReport
from vllm_ansible.bench.serve_trial import Cell, Engine, HostError, load
from vllm_ansible.cli import bench_serve
from vllm_ansible.cli.bench import app
from vllm_ansible.cli.bench_serve import print_serve
from vllm_ansible.plan import HostFacts

FACTS = HostFacts(
    distribution="Debian", distribution_version="12", glibc="2.36", cores=2,
    cpu_flags=["avx2", "avx512f"], memory_mib=16384,
)  # fmt: skip


def rounds(starts, rates, memory=1000):
    """Each round's loads: one and sixteen at a time, with short prompts."""
    return [
        Round(
            start_s=start, memory_mib=memory,
            loads=[
                Load(prompt="short", streams=n, tokens_per_s=rate, first_ms=50, each_ms=10)
                for n, rate in zip((1, 16), pair, strict=True)
            ],
        )
        for start, pair in zip(starts, rates, strict=True)
    ]  # fmt: skip


def report(**changes):
    found: dict[Any, list[Round]] = {
        "defaults": rounds((90, 60, 50), [(50, 400), (52, 410), (54, 420)]),
        "planned": rounds((40, 20, 30), [(60, 520), (65, 500), (70, 540)]),
        "llama.cpp": rounds((4, 3, 3), [(100, 510), (101, 520), (99, 530)]),
    } | changes
    return ServeReport(
        model="m", weights_bytes=400_000_000, version="0.31.0", processor="P", cores=2,
        bandwidth=Bandwidth(one=38, all=44), rounds=found, settings={},
    )  # fmt: skip


def verdict(found, name):
    return next(one for one in found.verdicts if one.name.startswith(name))


def test_a_ratio_is_the_median_of_those_of_the_turns():
    found = report()
    assert found.ratio("defaults", "short", 1) == 1.25
    assert found.ratio("defaults", "short", 16) == round(540 / 420, 3)
    assert found.ratio("llama.cpp", "short", 16) == round(540 / 530, 3)
    assert found.met


def test_the_first_start_is_not_among_the_further_ones():
    found = report()
    assert (found.start("defaults", first=True), found.start("defaults", first=False)) == (90, 55)
    assert found.start_ratio == round(25 / 55, 3)


def test_the_bound_is_what_the_memory_gives_divided_by_the_weights():
    assert report().bound == 110.0


SLOW = [(50, 410), (52, 410), (54, 410)]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"planned": rounds((40, 20, 30), SLOW)}, "short prompts, 1 at a time, ÷ defaults"),
        ({"planned": rounds((40, 20, 30), SLOW)}, "short prompts, 16 at a time, ÷ llama.cpp"),
        ({"planned": rounds((40, 28, 28), [(70, 540)] * 3)}, "second start"),
    ],
)
def test_a_missed_target_is_told(changes, name):
    found = report(**changes)
    assert not verdict(found, name).met
    assert not found.met


def test_without_llama_it_is_not_compared_with():
    found = report(**{"llama.cpp": []})
    assert not [one for one in found.verdicts if "llama" in one.name]
    assert found.met


def test_the_tables_name_every_engine_and_verdict():
    out = io.StringIO()
    print_serve(Console(file=out, width=160), report())
    text = out.getvalue()
    for word in ("defaults", "planned", "llama.cpp", "110 tokens/s", "second start", "1.25"):
        assert word in text


def test_a_model_that_is_not_there_is_told_with_those_that_are(tmp_path):
    done = CliRunner().invoke(app, ["serve", "--model", "none", "--cache", str(tmp_path)])
    assert done.exit_code == 1
    assert "smollm2-135m" in done.stderr


# -- the planned engine -----------------------------------------------------------------------


def a_model(folder: Path, **more) -> Path:
    folder.mkdir()
    config = {
        "model_type": "llama", "torch_dtype": "bfloat16", "num_attention_heads": 2,
        "num_key_value_heads": 1, "hidden_size": 8, "num_hidden_layers": 1,
        "max_position_embeddings": 4096, **more,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_what_was_kept_before_there_was_a_lab_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_serve, "_LAB", tmp_path / "lab")
    monkeypatch.setattr(bench_serve, "CACHE", tmp_path / "own")
    assert bench_serve.kept() == tmp_path / "own/bench"
    (tmp_path / "lab").mkdir()
    assert bench_serve.kept() == tmp_path / "lab/bench"
    (tmp_path / "own/bench").mkdir(parents=True)
    assert bench_serve.kept() == tmp_path / "own/bench"


def test_the_planned_engine_has_what_the_plan_renders_in_directories_of_its_own(tmp_path):
    plan = planned(FACTS, a_model(tmp_path / "m"), 100, "0.31.0", kv_cache_gib=3)
    assert plan.environment["VLLM_CPU_KVCACHE_SPACE"] == "3"
    own = moved(plan, {"/run/vllm/bench": "/own", "/var/cache/vllm/bench": "/own/cache"})
    assert own.config["uds"] == "/own/api.sock"
    assert own.environment["HOME"] == "/own/cache"
    assert own.environment["VLLM_CPU_KVCACHE_SPACE"] == "3"


def test_a_plan_that_refuses_says_why(tmp_path):
    with pytest.raises(ServeError, match="memory is short"):
        planned(FACTS, a_model(tmp_path / "m"), 2**40, "0.31.0")


# -- the models -------------------------------------------------------------------------------


def test_llama_cpp_gets_the_same_numbers(tmp_path):
    gguf = pytest.importorskip("gguf")
    folder = a_model(
        tmp_path / "m", rms_norm_eps=1e-5, rope_theta=10000.0, intermediate_size=4, vocab_size=3,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    vocabulary = {"model": {"vocab": {"a": 2}, "merges": [["a", "a"]]}}
    special = [{"id": 0, "content": "<s>"}, {"id": 1, "content": "</s>"}]
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary | {"added_tokens": special}))
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    serialize_file(
        {
            "model.layers.0.self_attn.q_proj.weight": spec(values),
            "model.layers.0.mlp.gate_proj.weight": spec(values),
            "model.norm.weight": spec(values[0]),
        },
        str(folder / "model.safetensors"),
        {"format": "pt"},
    )
    read = gguf.GGUFReader(serve_models.gguf(folder, tmp_path / "m.gguf"))
    found = {one.name: gguf.dequantize(one.data, one.tensor_type) for one in read.tensors}
    assert (found["blk.0.ffn_gate.weight"] == values).all()
    assert (found["output_norm.weight"] == values[0]).all()
    # Rows of a head, 4 high: its two halves take turns.
    assert found["blk.0.attn_q.weight"][:, 0].tolist() == [0, 16, 8, 24, 32, 48, 40, 56]


KEPT: list[Any] = []


def spec(values):
    bits = serve_models._bfloat16(values)  # what the models are made with
    KEPT.append(bits)
    return TensorSpec(
        dtype="bfloat16", shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes
    )


def test_a_model_that_llama_cpp_is_not_given_is_told(tmp_path):
    with pytest.raises(ServeError, match="without-llama"):
        serve_models.gguf(a_model(tmp_path / "m", model_type="bert"), tmp_path / "m.gguf")


# -- the trial --------------------------------------------------------------------------------

SERVER = textwrap.dedent("""
    import http.server, json, os, socketserver, sys

    class Handler(http.server.BaseHTTPRequestHandler):
        def address_string(self): return "socket"
        def log_message(self, *words): pass
        def do_GET(self):
            self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200); self.end_headers()
            for _ in range(asked["max_tokens"]):
                self.wfile.write(b'data: {"choices": []}\\n\\n')
            usage = {"completion_tokens": asked["max_tokens"]}
            last = json.dumps({'usage': usage}, separators=(',', ':'))
            self.wfile.write(f'data: {last}'.encode())

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    if os.fork() == 0:
        Server(sys.argv[1], Handler).serve_forever()
    os.wait()
""")


def trial(tmp_path: Path, program: str) -> Engine:
    path = tmp_path / "api.sock"
    argv = [sys.executable, "-c", program, str(path)]
    return Engine(argv, dict(os.environ), path, tmp_path / "log.txt", 30)


def test_an_engine_is_started_measured_and_stopped_with_all_its_processes(tmp_path):
    with trial(tmp_path, SERVER) as running:
        assert running.seconds > 0
        assert running.memory_mib() > 1
        found = load(running.path, "m", Cell(8, 3, 5), "seed")
        assert found.tokens_per_s > 0
        assert found.first_ms > 0
    with pytest.raises(HostError, match="does not answer"):
        load(tmp_path / "api.sock", "m", Cell(8, 1, 5), "seed")


def test_each_load_is_asked_of_all_engines_before_the_next_one(tmp_path):
    benches: dict[Any, Bench] = {}
    for name in ("defaults", "planned"):
        (tmp_path / name).mkdir()
        argv = [sys.executable, "-c", SERVER, str(tmp_path / name / "api.sock")]
        benches[name] = Bench(argv, dict(os.environ), tmp_path / name, {})
    setting = Setting(
        model="m", streams=[1, 2], prompts=["short"], rounds=2, turns=2, engine=None, cache=tmp_path
    )
    said: list[str] = []
    found = one_round(setting, benches, 0, said.append)
    assert [one.streams for one in found["planned"].loads] == [1, 2, 1, 2]
    assert all(done.start_s > 0 and done.memory_mib > 1 for done in found.values())
    assert ["defaults" in text and "planned" in text for text in said[2:]] == [True] * 4
    with pytest.raises(HostError, match="does not answer"):
        load(tmp_path / "planned" / "api.sock", "m", Cell(8, 1, 5), "seed")


def test_each_load_and_each_turn_begin_with_another_engine():
    orders = [rotated(["defaults", "planned", "llama.cpp"], by) for by in range(4)]
    assert [order[0] for order in orders] == ["defaults", "planned", "llama.cpp", "defaults"]
    assert all(sorted(order) == ["defaults", "llama.cpp", "planned"] for order in orders)


def test_an_engine_takes_nothing_of_the_processor_while_another_one_is_asked(tmp_path):
    def states(running: Engine) -> set[str]:
        texts = [Path(f"/proc/{pid}/stat").read_text("utf-8") for pid in running._processes()]
        return {text.rpartition(")")[2].split()[0] for text in texts}

    with trial(tmp_path, SERVER) as running:
        running.pause()
        wait_for(lambda: states(running) == {"T"}, 30)
        running.resume()
        assert load(running.path, "m", Cell(8, 1, 5), "seed").tokens_per_s > 0
        # Whoever is stopped in the midst ends all the same.
        running.pause()
    with pytest.raises(HostError, match="does not answer"):
        load(tmp_path / "api.sock", "m", Cell(8, 1, 5), "seed")


def test_an_engine_that_ends_says_its_last_words(tmp_path):
    with pytest.raises(HostError, match="no such flag"), trial(tmp_path, "exit('no such flag')"):
        pass
