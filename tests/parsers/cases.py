"""What inventories say, and what each version's server is then started with."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vllm_ansible.data import Data, project_data
from vllm_ansible.plan import HostFacts, plan_host
from vllm_ansible.schema import check_host

if TYPE_CHECKING:
    from vllm_ansible.plan.result import InstancePlan

FACTS = Path(__file__).parents[1] / "unit" / "facts"
RECORDS = {"cpu": "cpu-16-cores-avx512", "gpu": "gpu-a100"}
TEXT, SEES, EMBEDS = "qwen2.5-0.5b-instruct", "qwen2-vl-2b-instruct", "bge-small-zh-v1.5"

# A model that embeds and that is none of the catalogue's.
OWN = "vectors"
MODELS = {
    OWN: {
        "kind": "embedding",
        "revision": "b" * 40,
        "sources": [{"kind": "git-lfs", "url": "https://git.example.com/vectors.git"}],
    }
}


def one(model: str, **words: Any) -> dict[str, Any]:
    """One instance's words."""
    return {"name": "a", "model": model, **words}


@dataclass(frozen=True)
class Case:
    """One inventory.

    Attributes:
        name: What is special about it.
        instance: The words of its one instance.
        since: The first version that takes it; older ones are refused by the plan.
        devices: What it is for.
    """

    name: str
    instance: dict[str, Any]
    since: str = "0.5.0.post1"
    devices: tuple[str, ...] = ("cpu", "gpu")


CASES = [
    Case("text", one(TEXT)),
    Case("text, everything said", one(
        TEXT, served_names=["qwen", "Qwen/Qwen2.5-0.5B"], max_model_len=2048, dtype="bfloat16",
        kv_cache_gib=2, compile=True,
    )),
    Case("text, its own options", one(
        TEXT, extra_args={
            "seed": 7, "max-num-seqs": 8, "trust-remote-code": True,
            "response-role": "a helper",
        },
    )),
    Case("text, a cache of 2 GiB", one(TEXT, kv_cache_gib=2), devices=("gpu",)),
    Case("vision", one(SEES), since="0.6.3.post1"),
    Case("vision, two images", one(SEES, images=2, max_model_len=1024), since="0.6.3.post1"),
    Case("vision, files of the host", one(SEES, media_path="/srv/images"), since="0.11.0"),
    Case("embedding, a model of the inventory", one(OWN)),
    Case("embedding", one(EMBEDS), since="0.11.0"),
    Case("embedding, mean", one(EMBEDS, pooling="MEAN", max_model_len=256), since="0.11.0"),
    Case("options in JSON", one(
        TEXT, extra_args={"speculative-config": {"method": "ngram", "num_speculative_tokens": 3}},
    ), since="0.11.0"),
]  # fmt: skip


def data_for(version: str) -> Data:
    """The project's data, with a version that it does not support taken for the newest one."""
    data = project_data()
    versions = data.versions
    if version in versions.vllm:
        return data
    newest = list(versions.vllm.values())[-1]
    known = versions.model_copy(update={"vllm": {**versions.vllm, version: newest}})
    return data.model_copy(update={"versions": known})


def plan(version: str, device: str, instance: dict[str, Any]) -> InstancePlan:
    """What an instance of these words is on a host with this version."""
    data = data_for(version)
    facts = json.loads((FACTS / f"{RECORDS[device]}.json").read_text("utf-8"))
    engine = {"version": version, "device": device, "python": "3.11", "accept_vulnerable": True}
    words = {
        "vllm_engine": engine,
        "vllm_instances": [instance],
        "vllm_models": MODELS,
        # So that one that must be compiled (older versions for the CPU) needs no build host.
        "vllm_sources": {"site_local": True},
    }
    checked = check_host("h", words, data)
    if checked.words is None:
        raise AssertionError(checked.problems)
    return plan_host(checked.words, HostFacts.model_validate(facts), data, name="h").instances[0]


def line(instance: InstancePlan, folder: Path, number: int) -> list[str]:
    """The arguments that the instance's unit hands over: what its file says, or its drop-in."""
    starts = [one for one in instance.drop_in if one.startswith("ExecStart=") and " " in one]
    if not starts:
        file = folder / f"{number}.yaml"
        # As the role writes it: Ansible's to_nice_yaml.
        file.write_text(yaml.safe_dump(instance.config, sort_keys=True, indent=2), "utf-8")
        return ["serve", "--config", str(file)]
    # systemd's quotes are the shell's here; its specifiers and variables are not.
    words = shlex.split(starts[0].removeprefix("ExecStart="))
    plain = [word.replace("%%", "%").replace("$$", "$") for word in words]
    return plain[plain.index("vllm.entrypoints.openai.api_server") + 1 :]
