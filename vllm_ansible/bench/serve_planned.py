"""What the plan makes of this computer for one instance: the very words, with other directories."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_ansible.bench.serve_report import ServeError
from vllm_ansible.data import project_data
from vllm_ansible.paths import PROJECT
from vllm_ansible.plan import HostFacts, PlanError, plan_host
from vllm_ansible.schema import check_host

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_ansible.plan import HostPlan

NAME = "bench"
LENGTH = 2048


class Planned(NamedTuple):
    """An engine as the plan has it.

    Attributes:
        config: What its configuration file says.
        environment: Its variables.
        files: Files that it reads beside, by path.
        reasons: Why, by setting.
        requirements: What its release has besides what every release of the version has.
    """

    config: dict[str, Any]
    environment: dict[str, str]
    files: dict[str, str]
    reasons: dict[str, str]
    requirements: list[str]


def facts() -> HostFacts:
    """What this computer is, as the module that plans are made from reports it.

    Raises:
        ServeError: It cannot be asked.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = ["ansible", "localhost", "-i", "localhost,", "-c", "local", "-m", "host_facts"]
        command += ["-e", f"ansible_python_interpreter={sys.executable}"]
        done = subprocess.run(
            [*command, "-t", folder], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        answer = Path(folder) / "localhost"
        said = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else {}
    if done.returncode != 0 or "facts" not in said:
        raise ServeError(f"this computer's facts are not to be had: {said or done.stderr}")
    return HostFacts.model_validate(said["facts"])


def planned(known: HostFacts, model: Path, weights: int, version: str, **words: Any) -> Planned:
    """Has the project plan one instance of a model for a computer.

    Args:
        known: The computer.
        model: The model's directory.
        weights: Bytes of its weights.
        version: The engine's, as the inventory names it.
        words: Further words of the instance.

    Raises:
        ServeError: The plan refuses.
    """
    plan = _plan(known, model, weights, version, words)
    one = plan.instances[0]
    return Planned(
        config=one.config,
        environment=one.environment,
        files={file.path: file.content for file in one.files},
        reasons={r.subject.removeprefix(f"{NAME}."): r.why for r in plan.reasons},
        requirements=_besides(plan, version),
    )


def _besides(plan: HostPlan, version: str) -> list[str]:
    kernels = project_data().versions.amd_kernels.requirements.get(version, [])
    return [one for one in kernels if one in plan.packages.requirements]


def _plan(
    known: HostFacts, model: Path, weights: int, version: str, words: Mapping[str, Any]
) -> HostPlan:
    inventory = {
        "vllm_engine": {"version": version, "device": "cpu"},
        "vllm_instances": [{"name": NAME, "model": NAME, "max_model_len": LENGTH, **words}],
        "vllm_models": {
            NAME: {
                "revision": "0" * 40,
                "sources": [{"kind": "files", "url": "http://localhost/"}],
                "size_bytes": weights,
                **_figures(model),
            }
        },
    }
    checked = check_host("localhost", inventory, project_data())
    if checked.words is None:
        raise ServeError("; ".join(str(problem) for problem in checked.problems))
    # Whether it has room for an installation is of no matter here: nothing is installed.
    roomy = known.model_copy(update={"disk_free_mib": {}, "receipt": None})
    try:
        return plan_host(checked.words, roomy, project_data(), name="localhost")
    except PlanError as error:
        raise ServeError(str(error)) from error


def _figures(model: Path) -> dict[str, int]:
    """The model's context, and the bytes that each token takes in the KV cache (16-bit numbers)."""
    said = json.loads((model / "config.json").read_text(encoding="utf-8"))
    heads = said["num_attention_heads"]
    size = said.get("head_dim") or said["hidden_size"] // heads
    keys = said.get("num_key_value_heads", heads)
    each = 2 * 2 * said["num_hidden_layers"] * keys * size
    return {"context": said["max_position_embeddings"], "kv_bytes_per_token": each}


def moved(one: Planned, places: Mapping[str, str]) -> Planned:
    """The same with other directories.

    Args:
        one: As planned.
        places: Beginnings of paths and what stands in their place, the longest first.
    """
    text = json.dumps([one.config, one.environment, one.files])
    for old in sorted(places, key=len, reverse=True):
        text = text.replace(old, places[old])
    config, environment, files = json.loads(text)
    return one._replace(config=config, environment=environment, files=files)
