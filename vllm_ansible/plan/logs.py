"""What an engine writes into the journal.

The statistics that vLLM prints every few seconds are silenced by their logger's level, in a
configuration of Python's logging that every version reads from VLLM_LOGGING_CONFIG_PATH.
`disable-log-stats` would do it too, but it ends the engine's figures on `/metrics` as well: read in
`AsyncLLM.__init__` of 0.11.0 to 0.33.0, where the manager of both is left out, and in
`LLMEngine.__init__` of 0.5.0.post1 and 0.6.3.post1.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_ansible.plan.context import Context
    from vllm_ansible.schema import Instance

# Who prints the statistics: the first engine, and the second (V1).
STATISTICS = ("vllm.engine.metrics", "vllm.v1.metrics.loggers")
# Who prints requests: up to 0.19.1, and from 0.30.0 on, which shows prompts at DEBUG only.
REQUESTS = ("vllm.entrypoints.logger", "vllm.entrypoints.serve.utils.request_logger")


def config_path(words: Instance) -> str:
    """Where an instance's logging is configured on its host."""
    return f"/etc/vllm/{words.name}.logging.json"


def arguments(context: Context, words: Instance) -> dict[str, Any]:
    """The arguments of `vllm serve` about logs. The door logs who asked; the engine need not."""
    logs, version = context.words.logs, context.version
    known = context.data.versions.knows_flag
    config: dict[str, Any] = {}
    if known(version, "disable-uvicorn-access-log"):
        config["disable-uvicorn-access-log"] = True
    else:
        config["uvicorn-log-level"] = "warning"
    if logs.requests:
        config["max-log-len"] = logs.prompt_characters
        if known(version, "enable-log-requests"):
            config["enable-log-requests"] = True
        why = f"vllm_logs.requests, with {logs.prompt_characters} characters of each prompt"
        context.because(f"{words.name}.requests in the journal", "true", why)
    elif known(version, "disable-log-requests"):
        config["disable-log-requests"] = True
    if not logs.statistics:
        why = "level WARNING of their logger, which leaves /metrics as it is"
        context.because(f"{words.name}.statistics in the journal", "false", why)
    return config


def logging_config(context: Context, words: Instance) -> str:
    """The configuration of Python's logging, as JSON; the same for every version."""
    logs = context.words.logs
    # vLLM does not look at its own variable any more where it is given a configuration.
    level = words.env.get("VLLM_LOGGING_LEVEL", "INFO").upper()
    out = {"handlers": ["journal"], "level": level, "propagate": False}
    loggers: dict[str, Any] = {"vllm": out, "uvicorn": out}
    if not logs.statistics:
        loggers |= {name: {"level": "WARNING"} for name in STATISTICS}
    if logs.prompt_characters:
        loggers |= {name: {"level": "DEBUG"} for name in REQUESTS}
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        # The journal knows the time; multi-line messages stay as they are.
        "formatters": {"journal": {"format": "%(levelname)s %(name)s: %(message)s"}},
        "handlers": {
            "journal": {
                "class": "logging.StreamHandler",
                "formatter": "journal",
                "stream": "ext://sys.stdout",
            }
        },
        "loggers": loggers,
    }
    return json.dumps(config, indent=2, sort_keys=True) + "\n"
