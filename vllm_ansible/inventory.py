"""Reads inventories with Ansible's own classes, inside an action plugin and on its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

# Where a value came from is known to ansible-core alone; there is no public name for these tags.
from ansible._internal._datatag._tags import Origin, VaultedValue
from ansible.errors import AnsibleError
from ansible.parsing.vault import EncryptedString, VaultSecretsContext, is_encrypted
from ansible.template import Templar
from jinja2 import Environment
from jinja2.meta import find_undeclared_variables

from vllm_ansible import paths
from vllm_ansible.data import project_data
from vllm_ansible.schema import (
    Checked,
    Door,
    Problem,
    Server,
    SiteWords,
    check_host,
    check_site,
    check_webui,
    find_doors,
    masked,
)
from vllm_ansible.schema.check import WORDS, is_secret
from vllm_ansible.schema.problems import NOTHING, dotted, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vllm_ansible.schema import Words

GROUP = "vllm"
WEBUI = "webui"


class InventoryError(Exception):
    """An inventory that cannot be read, or that says what it may not.

    Attributes:
        problems: Every error found, of every host.
    """

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


@dataclass
class HostWords:
    """One host's variables that concern us, templated and plain."""

    host: str
    variables: dict[str, Any] = field(default_factory=dict)
    sealed: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def check(self) -> Checked:
        """Checks the words; what could not be read counts as an error too."""
        return self._checked(check_host)

    def check_webui(self) -> Checked:
        """As `check`, of a host that has the web UI and is no server."""
        return self._checked(check_webui)

    def _checked(self, check: Callable[..., Checked]) -> Checked:
        if not self.variables:
            return Checked(None, self.problems)
        checked = check(self.host, self.variables, project_data(), self.sealed)
        unread = {problem.variable for problem in self.problems}
        others = [one for one in checked.problems if one.variable not in unread]
        problems = sorted({*self.problems, *others})
        return Checked(None if problems else checked.words, problems)

    def key_fingerprint(self) -> str | None:
        """A fingerprint of the API key that the controller gives, or None."""
        gateway = self.variables.get("vllm_gateway")
        if not isinstance(gateway, Mapping):
            return None
        key, file = gateway.get("api_key"), gateway.get("api_key_file")
        if file:
            key = Path(str(file)).expanduser().read_text(encoding="utf-8").strip()
        return fingerprint(str(key)) if key else None

    def secret_fingerprints(self) -> dict[str, str]:
        """Fingerprints of the secrets in instances' environments, by path."""
        found = {}
        for index, instance in enumerate(self.variables.get("vllm_instances", [])):
            for name, value in instance.get("env", {}).items():
                path = ["vllm_instances", index, "env", name]
                if is_secret(path):
                    found[dotted(path)] = fingerprint(str(value))
        found |= {source: fingerprint(token) for source, token in self._tokens() if token}
        return found

    def tokens(self) -> dict[str, str]:
        """The tokens of gated models by their fingerprints, as a plan's sources name them."""
        return {fingerprint(token): token for _, token in self._tokens() if token}

    def _tokens(self) -> Iterator[tuple[str, str]]:
        """The tokens of the models' sources, with the source's path."""
        for name, model in self.variables.get("vllm_models", {}).items():
            for index, source in enumerate(model.get("sources", [])):
                file, token = source.get("token_file"), source.get("token")
                if file:
                    token = Path(str(file)).expanduser().read_text(encoding="utf-8").strip()
                if file or token is not None:
                    yield dotted(["vllm_models", name, "sources", index]), str(token or "")

    def login_fingerprints(self) -> dict[str, str]:
        """Fingerprints of the passwords of the web UI, by user."""
        return {user: fingerprint(password) for user, password in self.logins().items()}

    def logins(self) -> dict[str, str]:
        """The passwords of the web UI, by user; of words that have been checked."""
        found = {}
        for login in (self.variables.get("vllm_webui") or {}).get("logins") or []:
            file = login.get("password_file")
            text = Path(str(file)).expanduser().read_text("utf-8") if file else login["password"]
            found[str(login["user"])] = str(text).strip() if file else str(text)
        return found


def fingerprint(secret: str) -> str:
    """Tells one secret from another without telling it: 16 characters of a SHA-256."""
    return hashlib.sha256(f"vllm-ansible\0{secret}".encode()).hexdigest()[:16]


@cache
def role_variable_names() -> frozenset[str]:
    """The variables that roles document: an inventory may set them, and that changes a host."""
    names: set[str] = set()
    for file in sorted((paths.PROJECT / "roles").glob("*/defaults/main.yml")):
        names |= set(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    return frozenset(names)


class _Reader:
    """Templates the variables of one host, leaf by leaf, so that an error names its place."""

    def __init__(self, host: str, raw: Mapping[str, Any], hostvars: Any, loader: Any) -> None:
        self.words = HostWords(host)
        self._raw = raw
        self._templar = Templar(loader=loader, variables={**raw, "hostvars": hostvars})

    def read(self) -> HostWords:
        variables = self.words.variables
        for name in self._raw:
            variables[str(name)] = self._resolve([str(name)], self._raw[name]) if (
                name in WORDS
            ) else ""  # fmt: skip
        roles = {
            n: self._resolve([n], self._raw[n]) for n in self._raw if n in role_variable_names()
        }
        variables["__role_variables__"] = roles
        if "ansible_host" in self._raw:
            variables["__address__"] = self._resolve(["ansible_host"], self._raw["ansible_host"])
        return self.words

    def _refuse(self, path: Sequence[str | int], given: Any, allowed: str) -> None:
        text = "a value that is not shown" if is_secret(path) else shown(given)
        self.words.problems.append(Problem(self.words.host, dotted(path), text, masked(allowed)))

    def _resolve(self, path: list[str | int], value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): self._resolve([*path, str(key)], value[key]) for key in value}
        if isinstance(value, (list, tuple)):
            return [self._resolve([*path, index], one) for index, one in enumerate(value)]
        if not isinstance(value, (str, EncryptedString)):
            return _plain(value)
        try:
            result = self._templar.template(value)
        except AnsibleError as error:
            return self._unresolved(path, value, error)
        return self._finished(path, result, computed_sealed=self._computed_sealed(value))

    def _computed_sealed(self, value: Any) -> bool:
        """Whether a template takes its value out of a vault, or from outside the inventory.

        A filter takes Ansible's mark away, so the variables that the template names are asked;
        one that names none (a lookup) has its value from somewhere else than an inventory's file.
        """
        if not isinstance(value, str) or not self._templar.is_template(value):
            return False
        names = find_undeclared_variables(Environment(autoescape=True).parse(str.__str__(value)))
        known = [self._raw[name] for name in names if name in self._raw]
        return not known or any(_holds_sealed(one) for one in known)

    def _unresolved(self, path: list[str | int], value: Any, error: AnsibleError) -> Any:
        """A value that cannot be had: sealed when it is a secret in a vault, else an error."""
        locked = isinstance(value, EncryptedString) or "vault" in str(error).lower()
        if locked and is_secret(path):
            self.words.sealed.add(dotted(path))
            return ""
        reason = str(error).splitlines()[0]
        if isinstance(value, EncryptedString):
            self._refuse(path, "a vaulted value", f"one that opens: {reason}")
        else:
            self._refuse(path, str(value), f"a template that can be resolved: {reason}")
        return NOTHING if len(path) == 1 else None

    def _finished(self, path: list[str | int], value: Any, *, computed_sealed: bool) -> Any:
        """The plain value, with the places noted whose content came out of a vault."""
        if isinstance(value, Mapping):
            return {
                str(key): self._finished(
                    [*path, str(key)], value[key], computed_sealed=computed_sealed
                )
                for key in value
            }
        if isinstance(value, (list, tuple)):
            return [
                self._finished([*path, index], one, computed_sealed=computed_sealed)
                for index, one in enumerate(value)
            ]
        if computed_sealed or _is_sealed(value):
            self.words.sealed.add(dotted(path))
        return _plain(value)


def _holds_sealed(value: Any) -> bool:
    """Whether anything in a raw value comes out of a vault."""
    if isinstance(value, Mapping):
        return any(_holds_sealed(value[key]) for key in value)
    if isinstance(value, (list, tuple)):
        return any(_holds_sealed(one) for one in value)
    return _is_sealed(value)


def _is_sealed(value: Any) -> bool:
    """Whether a value is vaulted itself, or stands in a file that is vaulted as a whole."""
    if isinstance(value, EncryptedString) or VaultedValue.is_tagged_on(value):
        return True
    origin = Origin.get_tag(value)
    return origin is not None and origin.path is not None and _is_vaulted_file(origin.path)


@cache
def _is_vaulted_file(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return bool(is_encrypted(file.read(64)))
    except OSError:
        return False


def _plain(value: Any) -> Any:
    """The value without Ansible's tags."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind.__str__(value) if kind is str else kind(value)
    return str(value)


def read_host(host: str, hostvars: Any, loader: Any) -> HostWords:
    """The words of one host, from Ansible's `hostvars` (with extra variables and `add_host`)."""
    try:
        raw = hostvars.raw_get(host)
    except AnsibleError as error:
        problem = Problem(host, "variables", "", f"only what can be read: {masked(str(error))}")
        return HostWords(host, problems=[problem])
    return _Reader(host, raw, hostvars, loader).read()


def read_site(
    groups: Mapping[str, Sequence[str]],
    hostvars: Any,
    loader: Any,
    servers: Mapping[str, Words | None] | None = None,
) -> SiteWords:
    """Who does what for the whole site, from Ansible's groups and `hostvars`.

    Args:
        groups: Ansible's.
        hostvars: Ansible's.
        loader: Ansible's.
        servers: The servers' words, from whoever validates them. A plan leaves them out: each host
            that read all others anew would make a site of hundreds slow.
    """
    others = [*groups.get("mirror", []), *groups.get("build", [])]
    variables = {host: read_host(host, hostvars, loader).variables for host in others}
    return check_site(groups, variables, servers or {})


@dataclass
class WebuiHost:
    """A host that has the web UI.

    Attributes:
        words: Its variables.
        checked: What they say, and what is wrong with them.
        doors: The instances that it offers.
        problems: Every error that the servers' own check does not tell.
    """

    words: HostWords
    checked: Checked
    doors: list[Door] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_webui(
    host: str,
    groups: Mapping[str, Sequence[str]],
    hostvars: Any,
    loader: Any,
    servers: Mapping[str, Words | None] | None = None,
) -> WebuiHost:
    """What an inventory says of a host of the group `webui`.

    Args:
        host: The host.
        groups: Ansible's.
        hostvars: Ansible's.
        loader: Ansible's.
        servers: The servers' words where they have been read.
    """
    members = list(groups.get(GROUP, []))
    words = read_host(host, hostvars, loader)
    here = host in members
    checked = words.check() if here else words.check_webui()
    if checked.words is None:
        return WebuiHost(words, checked, problems=[] if here else checked.problems)
    known = {}
    for name in members:
        read = read_host(name, hostvars, loader)
        said = (servers or {}).get(name) or read.check().words
        known[name] = Server(said, str(read.variables.get("__address__", "")))
    doors, problems = find_doors(host, checked.words.webui, known, here, project_data())
    return WebuiHost(words, checked, doors, problems)


def _speaks(hostvars: Any, host: str) -> bool:
    """Whether a host's variables name the web UI; what cannot be read is told elsewhere."""
    try:
        return "vllm_webui" in hostvars.raw_get(host)
    except AnsibleError:
        return False


def read_webuis(
    groups: Mapping[str, Sequence[str]],
    hostvars: Any,
    loader: Any,
    servers: Mapping[str, Words | None],
) -> tuple[list[WebuiHost], list[Problem]]:
    """The site's web UIs, and every error about them."""
    hosts = list(groups.get(WEBUI, []))
    found = [read_webui(host, groups, hostvars, loader, servers) for host in hosts]
    problems = [problem for one in found for problem in one.problems]
    said = [] if hosts else [one for one in groups.get(GROUP, []) if _speaks(hostvars, one)]
    if said:
        allowed = f"at least one host, as vllm_webui is said of {said[0]}"
        problems.append(Problem("", f"group {WEBUI}", "no host", allowed))
    return found, problems


@dataclass
class Inventory:
    """What an inventory says: its servers, and who does what for all of them."""

    hosts: list[HostWords]
    site: SiteWords
    webuis: list[WebuiHost] = field(default_factory=list)
    webui_problems: list[Problem] = field(default_factory=list)

    def problems(self) -> list[Problem]:
        """Every error of every host and of the site."""
        own = [problem for host in self.hosts for problem in host.check().problems]
        return [*own, *self.site.problems, *self.webui_problems]


def read_inventory(
    source: Path, limit: str | None = None, vault_password_file: Path | None = None
) -> Inventory:
    """The words of every host of the group `vllm`, and of the site, without a playbook.

    Args:
        source: An inventory file or directory.
        limit: A host pattern, as `--limit` takes it.
        vault_password_file: As `ansible-playbook` takes it; else ansible.cfg and the environment.

    Raises:
        InventoryError: No such inventory, or no servers in it, or none that `limit` names.
    """
    # Imported here: they start Ansible's plugin loader, which an action plugin has long done.
    from ansible.cli import CLI  # noqa: PLC0415
    from ansible.inventory.manager import InventoryManager  # noqa: PLC0415
    from ansible.parsing.dataloader import DataLoader  # noqa: PLC0415
    from ansible.vars.hostvars import HostVars  # noqa: PLC0415
    from ansible.vars.manager import VariableManager  # noqa: PLC0415

    if not source.exists():
        raise InventoryError([_no_inventory(str(source))])
    _start_plugins()
    loader = DataLoader()
    loader.set_basedir(str(paths.PROJECT))
    files = [str(vault_password_file)] if vault_password_file else None
    try:
        secrets = CLI.setup_vault_secrets(
            loader, [], vault_password_files=files, auto_prompt=False, initialize_context=False
        )
        # Ansible's programs set this once; one process here may read several inventories.
        VaultSecretsContext._current = VaultSecretsContext(secrets)  # noqa: SLF001
        inventory = InventoryManager(loader=loader, sources=[str(source)])
        if limit:
            inventory.subset(limit)
        names = [host.name for host in inventory.get_hosts(GROUP)]
    except AnsibleError as error:
        problem = Problem("", str(source), "", f"an inventory that can be read: {error}")
        raise InventoryError([problem]) from error
    if not names:
        raise InventoryError([no_servers(str(source), limit)])
    manager = VariableManager(loader=loader, inventory=inventory)
    hostvars = HostVars(inventory=inventory, variable_manager=manager, loader=loader)
    groups = {
        name: [host.name for host in inventory.groups[name].get_hosts()]
        for name in (GROUP, WEBUI, "mirror", "build")
        if name in inventory.groups
    }
    hosts = [read_host(name, hostvars, loader) for name in names]
    # All of the site's, whichever of them `limit` names.
    found = {one.host: one for one in hosts}
    servers = {
        name: (found.get(name) or read_host(name, hostvars, loader)).check().words
        for name in groups[GROUP]
    }
    site = read_site(groups, hostvars, loader, servers)
    return Inventory(hosts, site, *read_webuis(groups, hostvars, loader, servers))


@cache
def _start_plugins() -> None:
    """Starts Ansible's plugin loader, which may be done once in a process."""
    from ansible.plugins.loader import init_plugin_loader  # noqa: PLC0415

    init_plugin_loader()


def _no_inventory(source: str) -> Problem:
    return Problem("", source, "a path that does not exist", "an inventory file or directory")


def no_servers(source: str, limit: str | None = None) -> Problem:
    """The error of an inventory without servers."""
    given = f"no host in the group {GROUP}" + (f" with --limit {limit}" if limit else "")
    return Problem("", source, given, f"at least one host in {GROUP} (see inventories/example)")


def facts_file(source: str, host: str) -> Path:
    """Where a host's last known facts are kept on the controller."""
    key = hashlib.sha256(str(Path(source).resolve()).encode()).hexdigest()[:12]
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in host)
    return paths.CACHE / "facts" / key / f"{safe}.json"


def remember_facts(
    sources: Sequence[Any] | None, host: str, facts: Mapping[str, Any], warn: Callable[[str], Any]
) -> None:
    """Keeps a host's facts for `scripts/plan`, which contacts no host by itself.

    Args:
        sources: The inventories that Ansible was given.
        host: The host.
        facts: What it said of itself.
        warn: Told when they cannot be kept.
    """
    if not sources:
        return
    file = facts_file(str(sources[0]), host)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(facts, indent=1, sort_keys=True), encoding="utf-8")
    except OSError as error:
        warn(f"{file}: the facts could not be kept for scripts/plan: {error}")
