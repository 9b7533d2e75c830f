"""Command line of the plan: what would be done to each host and why, without touching one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vllm_ansible import paths
from vllm_ansible.cli.console import for_tables
from vllm_ansible.cli.options import Limit, VaultPasswordFile
from vllm_ansible.data import DataError, project_data
from vllm_ansible.inventory import Inventory, InventoryError, WebuiHost, facts_file, read_inventory
from vllm_ansible.plan import HostFacts, HostPlan, PlanError, plan_host
from vllm_ansible.plan.difference import differences
from vllm_ansible.plan.facts import ASSUMED
from vllm_ansible.plan.site import Site
from vllm_ansible.plan.unit import words as argv
from vllm_ansible.schema import Webui
from vllm_ansible.schema.words import SECRET_OPTION

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass
class Planned:
    """One host's plan, what its facts are, and what would change."""

    plan: HostPlan
    facts_from: str
    differences: list[str]


@app.command()
def main(
    inventory: Annotated[
        Path, typer.Option("--inventory", "-i", help="Inventory directory or file.")
    ] = Path("inventories/lab"),
    limit: Limit = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
    facts: Annotated[
        str | None,
        typer.Option(
            help="FILE: these facts (JSON) for every host. live: ask the hosts first (reads only). "
            "Else: what each host last said, or assumptions, marked as such."
        ),
    ] = None,
    vault_password_file: VaultPasswordFile = None,
) -> None:
    """Print every decision for every host, with its reason, and what would change.

    Contacts no host, unless asked to by --facts live.
    Exit status: 0 planned, 1 the inventory or a host is refused, 2 wrong usage.
    """
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    pages: list[dict[str, Any]] = []
    try:
        read = read_inventory(inventory, limit, vault_password_file)
        refused = [str(problem) for problem in read.problems()]
        if facts == "live" and not refused:
            _ask_hosts(inventory, limit, vault_password_file)
        results, shortages = ([], refused) if refused else _plan_all(read, inventory, facts)
        pages = [] if refused else [shown_page(one) for one in read.webuis]
    except InventoryError as error:
        results, shortages = [], [str(problem) for problem in error.problems]
    except DataError as error:
        results, shortages = [], [str(error)]
    if as_json:
        _print_json(results, pages, shortages)
    else:
        _print_tables(results)
        _print_pages(pages)
    for line in shortages:
        errors.print(f"[red]error:[/red] {escape(line)}")
    if shortages:
        raise typer.Exit(1)


def _ask_hosts(inventory: Path, limit: str | None, vault: Path | None) -> None:
    """Runs the playbook that reads facts and changes nothing; its output goes to standard error."""
    command = [
        "ansible-playbook",
        str(paths.PROJECT / "playbooks" / "facts.yml"),
        "-i",
        str(inventory),
    ]
    command += ["--limit", f"{limit},localhost"] if limit else []
    command += ["--vault-password-file", str(vault)] if vault else []
    done = subprocess.run(command, stdout=sys.stderr, cwd=paths.PROJECT, check=False)
    if done.returncode != 0:
        typer.echo("the hosts could not all be asked: see Ansible's message above", err=True)
        raise typer.Exit(1)


def _plan_all(
    read: Inventory, inventory: Path, facts: str | None
) -> tuple[list[Planned], list[str]]:
    """Every host's plan, and one line for each reason why a host cannot have one."""
    results, shortages = [], []
    site = _site_of(read, inventory)
    for host in read.hosts:
        known, origin = _facts_of(host.host, inventory, facts)
        words = host.check().words
        if words is None:
            continue
        try:
            plan = plan_host(
                words,
                known,
                project_data(),
                host.key_fingerprint(),
                name=host.host,
                secret_fingerprints=host.secret_fingerprints(),
                site=site,
            )
        except PlanError as error:
            shortages += [f"{host.host}: {problem} [{origin}]" for problem in error.problems]
            continue
        results.append(Planned(plan, origin, differences(plan, known)))
    return results, shortages


def _site_of(read: Inventory, inventory: Path) -> Site:
    """The site's mirror host, as it last said of itself."""
    mirror = read.site.mirror
    if mirror is None:
        return Site()
    file = facts_file(str(inventory), mirror)
    said = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return Site.of(read.site.door, said)


def _facts_of(host: str, inventory: Path, given: str | None) -> tuple[HostFacts, str]:
    """A host's facts and where they come from, in words."""
    if given is not None and given != "live":
        return _read_facts(Path(given)), f"facts from {given}"
    file = facts_file(str(inventory), host)
    if file.exists():
        return _read_facts(file), "what the host last said" if given is None else "asked now"
    return ASSUMED, (
        f"assumed: {ASSUMED.cores} cores, {ASSUMED.memory_mib // 1024} GiB, no GPU, "
        f"{ASSUMED.distribution} {ASSUMED.distribution_version}, x86_64"
    )


def _read_facts(file: Path) -> HostFacts:
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        return HostFacts.model_validate(content.get("facts", content))
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise typer.BadParameter(f"{file}: no facts as host_facts reports them: {error}") from error


def shown_plan(plan: HostPlan) -> dict[str, Any]:
    """A plan as JSON, with secret values of environments left out."""
    content = plan.model_dump(mode="json")
    for instance in content["instances"]:
        # Both are the same again, under another name.
        instance.pop("proof")
        instance["trial"] = instance["trial"] is not None
        for name in instance["secret_names"]:
            instance["environment"][name] = "(secret)"
        instance["config"] = _without_secrets(instance["config"])
    return content


def _without_secrets(config: dict[str, Any]) -> dict[str, Any]:
    """An instance's configuration with what looks like a secret left out."""
    return {
        name: "(secret)" if SECRET_OPTION.search(name) else value for name, value in config.items()
    }


def shown_page(one: WebuiHost) -> dict[str, Any]:
    """A web UI as JSON: where it is, whose models it offers, who may enter."""
    webui = Webui() if one.checked.words is None else one.checked.words.webui
    names = [f"[{address}]" if ":" in address else address for address in webui.listen]
    return {
        "host": one.words.host,
        "urls": [f"http://{name}:{webui.port}" for name in names],
        "offers": {door.name: door.url for door in one.doors},
        "users": [login.user for login in webui.logins],
        "public_link": webui.share is not None,
    }


def _print_pages(pages: list[dict[str, Any]]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for page in pages:
        users = ", ".join(page["users"]) or "whoever reaches it"
        offers = ", ".join(page["offers"])
        link = ", and whoever has its public link" if page["public_link"] else ""
        console.print(f"web UI on {page['host']}: {', '.join(page['urls'])}")
        console.print(f"  offers {escape(offers)}; for {users}{link}")


def _print_json(results: list[Planned], pages: list[dict[str, Any]], shortages: list[str]) -> None:
    hosts = [
        {"plan": shown_plan(r.plan), "facts": r.facts_from, "differences": r.differences}
        for r in results
    ]
    sys.stdout.write(
        json.dumps({"hosts": hosts, "webuis": pages, "errors": shortages}, indent=2) + "\n"
    )


def _print_tables(results: list[Planned]) -> None:
    console = for_tables()
    for result in results:
        plan = result.plan
        table = Table(title=f"{plan.host}  ({result.facts_from})", title_justify="left")
        for column in ("decision", "value", "why"):
            table.add_column(column, overflow="fold")
        for row in _rows(plan):
            table.add_row(*map(escape, row))
        console.print(table)
        for notice in plan.notices:
            console.print(f"[yellow]notice:[/yellow] {escape(notice)}", soft_wrap=True)
        console.print("would change:" if result.differences else "would change: nothing")
        for line in result.differences:
            console.print(f"  {escape(line)}")
        console.print()


def _rows(plan: HostPlan) -> list[tuple[str, str, str]]:
    """The plan's decisions as rows: decision, value, why."""
    why = {reason.subject: (reason.value, reason.why) for reason in plan.reasons}
    known = {"device": plan.device, "torch": f"{plan.release.torch} ({plan.release.torch_source})"}
    rows = [
        ("device", known["device"], why.pop("device", ("", ""))[1]),
        ("release", plan.release.id, f"vLLM {plan.release.vllm}, Python {plan.release.python}"),
        ("torch", known["torch"], why.pop("torch", ("", ""))[1]),
        ("packages", f"{len(plan.packages.requirements)} pinned", ", ".join(plan.packages.indexes)),
        ("miniconda", plan.miniconda.filename, f"first from {next(iter(plan.miniconda.urls), '')}"),
    ]
    rows += [
        ("model", f"{m.name} @ {m.revision[:12]}", f"first from {m.sources[0]['url']}")
        for m in plan.models
    ]
    rows += [
        ("instance", f"{i.name} at {i.url}", f"{i.kind}: {', '.join(i.served_names)}")
        for i in plan.instances
    ]
    rows += [
        (f"{i.name} serves with", " ".join(argv(_without_secrets(i.config))), i.unit)
        for i in plan.instances
    ]
    rows += [(subject, value, text) for subject, (value, text) in why.items()]
    rows.append(("digest", plan.digest[:12], "of all that changes the host"))
    return rows


if __name__ == "__main__":
    app()
