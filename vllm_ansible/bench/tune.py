"""Searches a small space of an instance's words on its own host, and names the best of them."""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vllm_ansible.data import project_data
from vllm_ansible.inventory import facts_file, read_inventory
from vllm_ansible.plan import HostFacts, PlanError, plan_host
from vllm_ansible.plan.site import Site
from vllm_ansible.provisioning import provision
from vllm_ansible.schema import check_host

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vllm_ansible.inventory import HostWords
    from vllm_ansible.plan.result import HostPlan, InstancePlan
    from vllm_ansible.provisioning import TaskEvent

# A setting has to be this much better than the present one: less is this day's weather.
WORTH = 1.03
WORD = "vllm_tuned"
# The task of playbooks/tune.yml that tries one setting after another.
MEASURED = "Each setting is measured"


class TuneError(Exception):
    """Nothing can be searched; the message says why, and the way out."""


@dataclass(frozen=True)
class Candidate:
    """Some words, and what the plan makes of them.

    Attributes:
        label: The words in short; "as it is" for none.
        words: As `vllm_tuned` has them.
        instance: The plan's.
        os_packages: Packages of the operating system that the host needs for it.
        against: What the inventory says of the instance itself and these words change: it wins.
    """

    label: str
    words: dict[str, Any]
    instance: InstancePlan
    os_packages: Sequence[str] = ()
    against: Sequence[str] = ()


@dataclass(frozen=True)
class Found:
    """What was measured of one candidate; `problem` says why nothing was."""

    candidate: Candidate
    problem: str
    start_s: float = 0.0
    memory_mib: int = 0
    rates: dict[int, float] = field(default_factory=dict)

    def score(self, base: Found) -> float:
        """Its tokens per second as a multiple of another's, the geometric mean over the loads."""
        shared = [n for n in base.rates if self.rates.get(n) and base.rates[n]]
        if self.problem or not shared:
            return 0.0
        return round(statistics.geometric_mean(self.rates[n] / base.rates[n] for n in shared), 3)


@dataclass(frozen=True)
class Search:
    """What is searched.

    Attributes:
        inventory: The inventory.
        limit: A pattern that names one host.
        instance: The instance; None where the host has one.
        streams: Requests at a time, one load each.
        instead: Whether the instance is stopped meanwhile.
        vault: File with the password of vaulted variables.
    """

    inventory: Path
    limit: str
    instance: str | None
    streams: Sequence[int]
    instead: bool
    vault: Path | None = None


def space(facts: HostFacts, neighbours: int) -> list[dict[str, Any]]:
    """The words that are tried: few, as each costs minutes.

    Args:
        facts: The host.
        neighbours: Other instances that share it.
    """
    fewer = [] if neighbours or facts.cores <= 1 else [facts.cores - 1, facts.cores]
    return [
        {},
        {"compile": True},
        {"compile": False},
        *({"cores": count} for count in fewer),
        {"extra_args": {"max_num_batched_tokens": 512}},
        {"extra_args": {"max_num_batched_tokens": 4096}},
    ]


def candidates(search: Search) -> tuple[str, list[Candidate]]:
    """The host and its candidates, those left out that the plan makes the same of.

    What is there is the first and, once more, the last: how far the two are apart is the noise of
    the host, in which nothing can be found.

    Raises:
        InventoryError: The inventory cannot be read.
        TuneError: It names several hosts or instances, or the host is not known yet, or cannot be
            planned.
    """
    read = read_inventory(search.inventory, search.limit, search.vault)
    if len(read.hosts) != 1:
        names = ", ".join(one.host for one in read.hosts)
        raise TuneError(f"--limit names {len(read.hosts)} hosts ({names}): one is searched")
    host = read.hosts[0]
    file = facts_file(str(search.inventory), host.host)
    if not file.exists():
        raise TuneError(f"{host.host} has not been provisioned from here yet: run site.yml first")
    facts = HostFacts.model_validate_json(file.read_text(encoding="utf-8"))
    name = _instance_of(host, search.instance)
    given = host.variables["vllm_instances"]
    said = _flat(next(one for one in given if one.get("name") == name))
    found: list[Candidate] = []
    for words in space(facts, len(given) - 1):
        planned = _planned(host, facts, name, words)
        if planned is None:
            continue
        instance = next(one for one in planned.instances if one.name == name)
        if not any(_same(instance, one.instance) for one in found):
            against = [_label({word: said[word]}) for word in _flat(words) if word in said]
            found.append(Candidate(_label(words), words, instance, planned.apt, against))
    if not found or found[0].words:
        raise TuneError(f"{host.host} cannot be planned as it is; why: ./scripts/plan")
    return host.host, [*found, replace(found[0], label=f"{found[0].label}, again")]


def _instance_of(host: HostWords, said: str | None) -> str:
    names = [str(one.get("name")) for one in host.variables.get("vllm_instances", [])]
    if said is None and len(names) == 1:
        return names[0]
    if said not in names:
        raise TuneError(f"{host.host} has the instances {', '.join(names)}: name one (--instance)")
    return str(said)


def _planned(
    host: HostWords, facts: HostFacts, name: str, words: Mapping[str, Any]
) -> HostPlan | None:
    """The host's plan with some words of an instance tried; None where it cannot take them."""
    variables = dict(host.variables)
    instances = [dict(one) for one in variables["vllm_instances"]]
    for one in instances:
        if one["name"] == name:
            arguments = {**one.get("extra_args", {}), **words.get("extra_args", {})}
            one.update({**words, **({"extra_args": arguments} if arguments else {})})
    variables["vllm_instances"] = instances
    checked = check_host(host.host, variables, project_data(), host.sealed)
    if checked.words is None:
        raise TuneError("; ".join(str(problem) for problem in checked.problems))
    roomy = facts.model_copy(update={"disk_free_mib": {}})
    try:
        return plan_host(checked.words, roomy, project_data(), name=host.host, site=Site())
    except PlanError:
        return None


def _same(one: InstancePlan, other: InstancePlan) -> bool:
    return (one.config, one.environment) == (other.config, other.environment)


def _flat(words: Mapping[str, Any]) -> dict[str, Any]:
    """An instance's words, those of `extra_args` among them."""
    flat = {**words, **words.get("extra_args", {})}
    flat.pop("extra_args", None)
    return flat


def _label(words: Mapping[str, Any]) -> str:
    said = [f"{key}: {value}" for key, value in _flat(words).items()]
    return ", ".join(said).replace("True", "true").replace("False", "false") or "as it is"


def search_host(
    search: Search, tried: Sequence[Candidate], watch: Callable[[TaskEvent], None] | None = None
) -> list[Found]:
    """Has the host try each candidate, through its own release.

    Args:
        search: What is searched.
        tried: The candidates.
        watch: Told each step.

    Raises:
        ProvisionError: The host could not be reached, or its instance did not come back.
    """
    one = tried[0].instance
    packages = sorted({package for c in tried for package in c.os_packages})
    with tempfile.TemporaryDirectory(prefix="vllm-tune-") as folder:
        asked, result = Path(folder) / "candidates.json", Path(folder) / "figures.json"
        asked.write_text(
            json.dumps(
                [
                    {
                        "label": c.label,
                        "config": c.instance.config,
                        "environment": c.instance.environment,
                    }
                    for c in tried
                ]
            ),
            encoding="utf-8",
        )
        provision(
            search.inventory,
            limit=search.limit,
            playbook="playbooks/tune.yml",
            vault_password_file=search.vault,
            on_event=watch and _counted(watch, search.limit, [c.label for c in tried]),
            extra_vars={
                "tune_file": str(asked), "tune_result": str(result), "tune_name": one.name,
                "tune_unit": one.unit, "tune_socket": one.socket or "",
                "tune_address": one.address or "", "tune_model": one.served_names[0],
                "tune_streams": list(search.streams), "tune_instead": search.instead,
                "tune_ready_timeout": one.ready_timeout, "tune_os_packages": packages,
            },
        )  # fmt: skip
        figures = json.loads(result.read_text(encoding="utf-8"))
    return [_found(c, said) for c, said in zip(tried, figures, strict=True)]


def _counted(
    watch: Callable[[TaskEvent], None], host: str, labels: Sequence[str]
) -> Callable[[TaskEvent], None]:
    """Tells of the task that measures which setting it is at; each takes minutes."""
    ended = 0

    def tell(event: TaskEvent) -> None:
        nonlocal ended
        watch(event)
        if event.task != MEASURED or event.kind not in {"task", "item"}:
            return
        ended += event.kind == "item"
        if ended < len(labels):
            said = f"{ended + 1} of {len(labels)}: {labels[ended]}"
            watch(replace(event, kind="progress", host=host, message=said))

    return tell


def _found(candidate: Candidate, said: Mapping[str, Any]) -> Found:
    return Found(
        candidate=candidate,
        problem=said["problem"],
        start_s=said["start_s"],
        memory_mib=said["memory_mib"],
        rates={load["streams"]: load["tokens_per_s"] for load in said["loads"]},
    )


def best(found: Sequence[Found]) -> Found:
    """The best; the first, what is there, unless one is better by `WORTH` than each try of it."""
    base = found[0]
    if base.problem:
        working = [one for one in found if not one.problem]
        return max(working, key=lambda one: sum(one.rates.values()), default=base)
    top = max(found, key=lambda one: one.score(base))
    return top if top.score(base) >= WORTH * max(unchanged(found)) else base


def unchanged(found: Sequence[Found]) -> list[float]:
    """What each try of what is there gave, as a multiple of the first.

    How far they are apart is what the host's other work makes of one and the same setting.

    Args:
        found: All candidates.
    """
    return [one.score(found[0]) for one in found if not one.candidate.words and not one.problem]


def words_file(inventory: Path, host: str) -> Path:
    """The file of the inventory in which a host's found words are.

    Raises:
        TuneError: Ansible would not read it beside the host's other variables.
    """
    base = inventory if inventory.is_dir() else inventory.parent
    folder = base / "host_vars" / host
    rivals = [folder.with_name(f"{host}{end}") for end in ("", ".yml", ".yaml")]
    plain = [one for one in rivals if one.is_file()]
    if plain:
        raise TuneError(
            f"{plain[0]} holds the host's variables: move it to {folder}/vars.yml, as Ansible "
            f"reads either the file or the directory, and ask again"
        )
    return folder / "tuned.yml"


def changed_file(file: Path, instance: str, words: Mapping[str, Any]) -> tuple[str, str]:
    """What the file says now, and what it would say with the words found for an instance."""
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    said = (yaml.safe_load(before) or {}).get(WORD) or {}
    own = said.get(instance) or {}
    arguments = {**own.get("extra_args", {}), **words.get("extra_args", {})}
    merged = {**own, **words, **({"extra_args": arguments} if arguments else {})}
    found = {**said, **({instance: merged} if merged else {})}
    if found == said:
        return before, before
    head = "# Written by scripts/tune, which measured them on the host; edit or remove freely.\n"
    return before, f"---\n{head}{yaml.safe_dump({WORD: found}, sort_keys=True)}"
