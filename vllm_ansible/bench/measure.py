"""Provisions sites in the lab and takes their figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path

from vllm_ansible import lab
from vllm_ansible.bench.report import Install, Run, SitesReport
from vllm_ansible.bench.site import ENGINES, ORIGIN, Site
from vllm_ansible.bench.traffic import counting, since
from vllm_ansible.lab import LabSpec
from vllm_ansible.lab import ssh as lab_ssh
from vllm_ansible.lab.machine import Machine
from vllm_ansible.lab.system import Progress, run
from vllm_ansible.provisioning import ProvisionResult, TaskEvent, provision

# systemd's message "a unit has been started", systemd.journal-fields(7) and its catalogue.
_STARTED = "39f53479d3a045ac8e11786248231fbf"
_BUILD = "vllm-build-"

Watch = Callable[[TaskEvent], None]


def measure_sites(
    install: Install, servers: int, subnet: IPv4Network, folder: Path, progress: Progress,
    watch: Watch, *, keep: bool = False,
) -> SitesReport:  # fmt: skip
    """Provisions a site of one server, adds the others, and provisions a site of all at once.

    Args:
        install: How the engine comes.
        servers: How many servers the larger site has; two or more.
        subnet: The labs' network; one lab is there at a time.
        folder: For inventories, logs and the controller's cache.
        progress: Told what is going on.
        watch: Told each step of a provisioning.
        keep: Leave the machines of the larger site.

    Returns:
        All figures.

    Raises:
        LabError: A lab cannot be had; the message says why.
        ProvisionError: A provisioning failed.
    """
    begin = Site(install, "bench-1", subnet, servers)
    whole = Site(install, f"bench-{servers}", subnet, servers)
    with _machines(begin, servers, folder, progress) as measure:
        one = measure(1, progress, watch)
        more = measure(servers, progress, watch)
    with _machines(whole, servers, folder, progress, keep=keep) as measure:
        every = measure(servers, progress, watch)
    return SitesReport(install=install, engine=ENGINES[install], one=one, more=more, all=every)


class _Site:
    """A site whose machines are there.

    Args:
        site: What it is.
        folder: For inventories, logs and the controller's cache.
    """

    def __init__(self, site: Site, folder: Path) -> None:
        self._site, self._folder = site, folder
        self._there = 0
        self._compiled = 0

    def __call__(self, servers: int, progress: Progress, watch: Watch) -> Run:
        """Provisions the site with so many servers and returns what that took."""
        inventory = self._site.write(self._folder, servers)
        spec = LabSpec.from_inventory(inventory)
        lab.up(spec, progress)
        before = self._there
        progress(f"{spec.name}: provisioning {servers} server(s), {before} of them there already")
        with counting(spec, ORIGIN) as counter:
            at_first = counter.read()
            result = provision(
                inventory,
                env=self._site.environment(self._folder),
                on_event=watch,
                log=self._folder / f"{spec.name}-{servers}.log",
            )
            traffic = since(at_first, counter.read())
        compiled = sum(compilations(Machine(spec, one)) for one in spec.machines)
        done = Run(
            servers=servers,
            added=servers - before,
            seconds=round(result.seconds, 1),
            stages=result.stages,
            traffic=traffic,
            compilations=compiled - self._compiled,
            answers=_answers(result),
        )
        self._there, self._compiled = servers, compiled
        return done


@contextmanager
def _machines(
    site: Site, servers: int, folder: Path, progress: Progress, *, keep: bool = False
) -> Iterator[_Site]:
    """Removes the lab before and after; the machines are made by what measures."""
    spec = LabSpec.from_inventory(site.write(folder, servers))
    lab.down(spec, progress)
    try:
        yield _Site(site, folder)
    finally:
        if not keep:
            lab.down(spec, progress)


def compilations(machine: Machine) -> int:
    """How many builds of the engine a machine's systemd has started since it was made.

    Raises:
        LabError: It does not answer.
    """
    script = f"journalctl --quiet --no-pager --output=json MESSAGE_ID={_STARTED}"
    return count_builds(run(*lab_ssh.command(machine), script).stdout)


def count_builds(journal: str) -> int:
    """How many builds a journal names: "a unit has been started", one JSON object a line."""
    units = [json.loads(line).get("UNIT", "") for line in journal.splitlines() if line]
    return sum(unit.startswith(_BUILD) for unit in units)


def _answers(result: ProvisionResult) -> dict[str, str]:
    return {name: one.answers[0].answer for name, one in result.hosts.items() if one.answers}
