"""A long build as a transient systemd unit: bounded, logged, and alive after a lost connection."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_files import as_json, read_json_object, write_atomic
from ansible.module_utils.vllm_process import run

ABSENT, RUNNING, ENDED, FAILED, PUBLISHED = "absent", "running", "ended", "failed", "published"
ALIVE = ("active", "activating", "deactivating", "reloading", "refreshing")
# ninja's own words at the beginning of a line; pip indents what a build prints.
STEP = re.compile(rb"^\s*\[(\d+)/(\d+)\]", re.MULTILINE)
# What ninja says above the command and the output of a step that failed; pip indents it.
STEP_FAILED = re.compile(r"\s*FAILED: ")
# What the rest of the system keeps while a build runs, in MiB.
RESERVE_MIB = 512
SCRIPT = """
"$@"
status=$?
printf '{"status": %d, "ended": %d}\\n' "$status" "$(date +%s)" >"$RESULT.new" &&
  mv "$RESULT.new" "$RESULT"
exit "$status"
"""


class Places(NamedTuple):
    """Where a build's files are: all below one base, by key.

    Attributes:
        work: tree, staging and state of a build under way; removed when it is published.
        wheels: the published wheel and its build.json.
        log: all that the build printed.
        ccache: the compiler's cache, which several builds share.
    """

    work: Path
    wheels: Path
    log: Path
    ccache: Path

    @classmethod
    def of(cls, base: Path, key: str) -> Places:
        """Return the places of a key."""
        return cls(
            base / "work" / key,
            base / "wheels" / key,
            base / "logs" / f"{key}.log",
            base / "ccache",
        )

    @property
    def staging(self) -> Path:
        """Where the build puts its wheel."""
        return self.work / "staging"

    @property
    def result(self) -> Path:
        """What the unit writes when the build has ended by itself."""
        return self.work / "result.json"

    @property
    def state(self) -> Path:
        """What is known of the build since its start."""
        return self.work / "state.json"


def unit_of(key: str) -> str:
    """Return the name of a key's unit."""
    return f"vllm-build-{key}.service"


def memory_mib(text: str) -> int:
    """Return the MiB that can be had without swapping, from the text of /proc/meminfo."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    if match is None:
        raise HostError("/proc/meminfo has no MemAvailable; say how many jobs to run (jobs)")
    return int(match.group(1)) >> 10


def jobs_for(cores: int, memory: int, per_job: int) -> int:
    """Return how many compilers may run at once so that memory never runs out.

    Args:
        cores: processors that may be used.
        memory: MiB that can be had.
        per_job: MiB that one compiler takes at its worst.

    Raises:
        HostError: not even one fits.
    """
    fitting = (memory - RESERVE_MIB) // per_job
    if fitting < 1:
        raise HostError(
            f"{memory} MiB of memory can be had, and one compiler needs {per_job} MiB besides"
            f" {RESERVE_MIB} MiB for the system; free some memory, or build on another host"
        )
    return max(1, min(cores, fitting))


def text_since(path: Path, offset: int) -> bytes:
    """Return what a file has from a byte on; nothing when it is not there."""
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read()
    except FileNotFoundError:
        return b""


def progress_of(text: bytes) -> dict[str, int] | None:
    """Return the last step that a build's log names; None before the first."""
    found = STEP.findall(text)
    return {"done": int(found[-1][0]), "total": int(found[-1][1])} if found else None


def last_lines(text: bytes, count: int) -> str:
    """Return a log's last lines; where ninja names a failed step before them, half from there.

    Python's traceback of whoever called ninja is longer than what the compiler said.
    """
    lines = text.decode(errors="replace").rstrip().splitlines()
    failed = [n for n, line in enumerate(lines) if STEP_FAILED.match(line)]
    if not failed or failed[0] >= len(lines) - count:
        return "\n".join(lines[-count:])
    half = count // 2
    first = lines[failed[0] : failed[0] + half]
    return "\n".join([*first, "[...]", *lines[-(count - half) :]])


def unit_state(unit: str) -> dict[str, str]:
    """Return what systemd says of a unit."""
    names = "ActiveState,Result,ExecMainStatus"
    shown = run(["systemctl", "show", f"--property={names}", unit], timeout=30)
    if shown.status != 0:
        raise HostError(f"systemd does not answer about {unit}: {shown.tail(3)}")
    return dict(line.split("=", 1) for line in shown.output.splitlines() if "=" in line)


def phase_of(places: Places, unit: str) -> tuple[str, str]:
    """Return how far a build is, and why it failed where it did."""
    said = unit_state(unit)
    if said.get("ActiveState") in ALIVE:
        return RUNNING, ""
    result = read_json_object(places.result)
    if result is not None:
        if result["status"] == 0 and len(list(places.staging.glob("*.whl"))) == 1:
            return ENDED, ""
        return FAILED, f"it ended with status {result['status']}"
    if not places.state.is_file():
        return ABSENT, ""
    reasons = {"oom-kill": "the system killed it for want of memory", "timeout": "it took too long"}
    word = said.get("Result", "")
    return FAILED, reasons.get(word, f"it was interrupted ({word or 'its unit is gone'})")


def observe(places: Places, unit: str, lines: int) -> dict[str, Any]:
    """Return how far a build is: phase, reason, steps, seconds, and the log's end if it failed."""
    phase, reason = phase_of(places, unit)
    state = read_json_object(places.state) or {}
    # Only what this start has printed: an earlier one may have come further. All of it (2 MB for
    # the whole of vLLM), as the steps are followed by thousands of lines about packing.
    text = text_since(places.log, int(state.get("log_offset", 0)))
    result = read_json_object(places.result) or {}
    until = result.get("ended", time.time())
    return {
        "phase": phase,
        "reason": reason,
        "progress": progress_of(text),
        "elapsed": int(until - state["started"]) if state else 0,
        "jobs": state.get("jobs"),
        "record": state.get("record", {}),
        "log": str(places.log),
        "tail": last_lines(text, lines) if phase == FAILED else "",
    }


def start(
    places: Places,
    unit: str,
    argv: list[str],
    env: dict[str, str],
    limits: dict[str, str],
    known: dict[str, Any],
) -> None:
    """Start a build as a transient unit.

    Args:
        places: where its files are.
        unit: the unit's name.
        argv: the build's program and arguments; it puts one wheel into the staging directory.
        env: its variables.
        limits: properties of the unit.
        known: what a run that joins the build shall know of it.

    Raises:
        HostError: systemd did not take it.
    """
    places.result.unlink(missing_ok=True)
    for directory in (places.log.parent, places.ccache, places.staging):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    for leftover in places.staging.glob("*.whl"):
        leftover.unlink()
    offset = places.log.stat().st_size if places.log.exists() else 0
    state = {"started": int(time.time()), "log_offset": offset, "unit": unit, **known}
    write_atomic(places.state, as_json(state).encode(), 0o644)
    run(["systemctl", "reset-failed", unit], timeout=30)
    words = ["systemd-run", "--quiet", "--no-ask-password", f"--unit={unit}"]
    words += [f"--description=The build {places.work.name} of vllm-ansible"]
    properties = {
        "StandardOutput": f"append:{places.log}",
        "StandardError": f"append:{places.log}",
        "WorkingDirectory": str(places.work),
        **limits,
    }
    words += [f"--property={name}={value}" for name, value in properties.items()]
    words += [f"--setenv={name}={value}" for name, value in env.items()]
    words += [f"--setenv=RESULT={places.result}", "/bin/sh", "-c", SCRIPT.strip(), "build", *argv]
    begun = run(words, timeout=60)
    if begun.status != 0:
        places.state.unlink(missing_ok=True)
        raise HostError(f"systemd did not start {unit}: {begun.tail(5)}")
