#!/usr/bin/python
"""Try an instance's settings: start its engine with them, load it, stop it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: engine_trial
short_description: Start an engine with some settings, measure it and stop it
description:
  - Runs the engine of a release with a configuration and an environment, as the services' user, on
    a socket that nobody else reaches, and measures seconds to health, memory and answers.
  - Starts it more than once, as the first start fills caches. The figures are the last start's.
  - Files that the configuration names, such as a chat template, are the instance's own.
  - What it wrote is removed. A setting with which the engine does not start is no failure of the
    module; RV(problem) says why.
options:
  name:
    description: Name of the instance.
    type: str
    required: true
  release:
    description: Environment with vLLM.
    type: path
    required: true
  user:
    description: Who runs it.
    type: str
    required: false
    default: vllm
  config:
    description: What the configuration file says.
    type: dict
    required: true
  environment:
    description: Its environment variables.
    type: dict
    required: true
  model:
    description: The name by which the model is asked for.
    type: str
    required: true
  streams:
    description: Requests at a time, one load each.
    type: list
    elements: int
    required: false
    default: [1, 4, 16]
  words:
    description: Words of each prompt.
    type: int
    required: false
    default: 32
  tokens:
    description: New tokens of each request.
    type: int
    required: false
    default: 128
  starts:
    description: How often it is started.
    type: int
    required: false
    default: 2
  timeout:
    description: Seconds that a start may take.
    type: int
    required: false
    default: 600
  scratch:
    description: Directory in which the trial's own is made.
    type: path
    required: false
    default: /var/cache/vllm
attributes:
  check_mode:
    support: none
    description: Skipped, as nothing can be told without a start.
  diff_mode:
    support: none
    description: Nothing is changed.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The engine is measured with one thread fewer
  engine_trial:
    name: smollm2-135m
    release: /opt/vllm/current
    config: "{{ vllm_plan.instances[0].config }}"
    environment: "{{ vllm_plan.instances[0].environment }}"
    model: smollm2-135m-instruct
"""

RETURN = r"""
problem:
  description: Why it did not start or did not answer; empty when it did.
  returned: always
  type: str
start_s:
  description: Seconds from the last start to health.
  returned: always
  type: float
memory_mib:
  description: MiB of all its processes, shared pages counted once.
  returned: always
  type: int
loads:
  description: For each number of streams tokens per second, ms to the first token and to others.
  returned: always
  type: list
  elements: dict
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_trial import Cell, Engine, load

NOTHING: dict[str, Any] = {"start_s": 0.0, "memory_mib": 0, "loads": []}


def moved(value: Any, own: Path, name: str) -> Any:
    """Return a structure with the instance's directories replaced by the trial's."""
    text = json.dumps(value)
    for old in (f"/run/vllm/{name}/", f"/var/cache/vllm/{name}/"):
        text = text.replace(old, f"{own}/")
    text = text.replace(f'"/var/cache/vllm/{name}"', f'"{own}"')
    return json.loads(text)


def try_it(params: dict[str, Any], own: Path) -> dict[str, Any]:
    """Start, load and stop the engine as often as asked, and return the last figures.

    Raises:
        HostError: it does not start, or does not answer.
    """
    config = moved(params["config"], own, params["name"])
    environment = moved(params["environment"], own, params["name"])
    config["uds"] = str(own / "api.sock")
    for flag in ("host", "port"):
        config.pop(flag, None)
    # JSON is YAML.
    (own / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    shutil.chown(own / "config.yaml", params["user"], params["user"])
    release = params["release"]
    argv = [f"{release}/bin/vllm", "serve", "--config", str(own / "config.yaml")]
    variables = {"PATH": f"{release}/bin:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    variables.update({key: str(value) for key, value in environment.items()})
    found = dict(NOTHING)
    for number in range(params["starts"]):
        engine = Engine(
            argv, variables, own / "api.sock", own / "log.txt", params["timeout"], params["user"]
        )
        with engine as running:
            load(running.path, params["model"], Cell(8, 2, 8), f"first {number}")
            loads = [
                {"streams": streams, **measured(running, params, streams, number)}
                for streams in params["streams"]
            ]
            memory = running.memory_mib()
        found = {"start_s": round(running.seconds, 1), "memory_mib": memory, "loads": loads}
    return found


def measured(
    running: Engine, params: dict[str, Any], streams: int, number: int
) -> dict[str, float]:
    """Return the figures of one load."""
    cell = Cell(params["words"], streams, params["tokens"])
    figures = load(running.path, params["model"], cell, f"{number} {streams}")
    return {name: round(value, 1) for name, value in figures._asdict().items()}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "release": {"type": "path", "required": True},
            "user": {"type": "str", "default": "vllm"},
            "config": {"type": "dict", "required": True},
            "environment": {"type": "dict", "required": True},
            "model": {"type": "str", "required": True},
            "streams": {"type": "list", "elements": "int", "default": [1, 4, 16]},
            "words": {"type": "int", "default": 32},
            "tokens": {"type": "int", "default": 128},
            "starts": {"type": "int", "default": 2},
            "timeout": {"type": "int", "default": 600},
            "scratch": {"type": "path", "default": "/var/cache/vllm"},
        },
        supports_check_mode=True,
    )
    params = module.params
    if module.check_mode:
        module.exit_json(changed=False, skipped=True, problem="not tried in check mode", **NOTHING)
    try:
        with tempfile.TemporaryDirectory(prefix=".tune-", dir=params["scratch"]) as folder:
            own = Path(folder)
            shutil.chown(own, params["user"], params["user"])
            found = {"problem": "", **try_it(params, own)}
    except HostError as error:
        found = {"problem": str(error), **NOTHING}
    except (OSError, LookupError) as error:
        module.fail_json(msg=f"a trial of {params['name']} could not be prepared: {error}")
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
