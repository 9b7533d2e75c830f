"""Action: decides who compiles the engine's wheels, and which wheel each host gets."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vllm_ansible import paths
from vllm_ansible.data import project_data
from vllm_ansible.inventory import GROUP, read_host, read_site
from vllm_ansible.plan import HostFacts, PlanError
from vllm_ansible.plan.build import BuildPlan, plan_build
from vllm_ansible.plan.probe import probe_urls
from vllm_ansible.plan.result import WheelOrder
from vllm_ansible.plan.site import Site
from vllm_ansible.plan.wheels import Kept, choose, reasons, to_compile
from vllm_ansible.schema import Words

STORE = paths.CACHE / "wheels"
_STATES = ("ordered", "planned", "shared", "chosen")


class ActionModule(ActionBase):  # type: ignore[misc]
    """`ordered` looks at all servers, once for all of them, and returns `waiting`: by host that
    compiles, the servers that wait for each of its wheels. `planned` returns `builds`, what this
    host compiles for the servers in its own `waiting`. `shared` returns `wheels`, what the
    controller carries to the mirror host; `chosen` returns `wheel`, the one for this server.

    Wheels are kept on the controller, in `.cache/wheels/KEY/`, and on the mirror host.
    """  # noqa: D205

    _VALID_ARGS = frozenset(("state", "waiting"))

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Decides; fails with every reason why a wheel cannot be made or loaded."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        state = self._task.args.get("state")
        if state not in _STATES:
            allowed = ", ".join(_STATES)
            return result | {"failed": True, "msg": f"state: {state!r}; allowed: {allowed}"}
        servers = variables["groups"].get(GROUP, [])
        if state == "ordered":
            return result | self._ordered(_orders(variables, servers), variables)
        if state == "planned":
            return result | self._planned(self._task.args.get("waiting") or [], variables)
        if state == "shared":
            shared = _shared(_orders(variables, servers), variables)
            return result | {"changed": False, "wheels": shared}
        host = str(variables["inventory_hostname"])
        return result | self._chosen(host, _orders(variables, [host]), variables)

    def _ordered(self, orders: dict[str, WheelOrder], variables: dict[str, Any]) -> dict[str, Any]:
        """Who compiles, and for whom."""
        site = read_site(variables["groups"], variables["hostvars"], self._loader)
        kept = [*_carried(orders), *_mirrored(variables)]
        waiting: dict[str, list[list[str]]] = {}
        for who, hosts in to_compile(orders, kept, site.builder).values():
            waiting.setdefault(who, []).append(hosts)
        return {"changed": False, "waiting": waiting}

    def _planned(self, groups: list[list[str]], variables: dict[str, Any]) -> dict[str, Any]:
        """The builds of this host, by its facts."""
        host, hostvars = str(variables["inventory_hostname"]), variables["hostvars"]
        site = read_site(variables["groups"], hostvars, self._loader)
        orders = _orders(variables, [one for group in groups for one in group])
        asked = [(read_host(w[0], hostvars, self._loader).check().words, w) for w in groups]
        # Behind a mirror host it is the mirror host that was asked what answers.
        urls = {
            url for words, _ in asked if words and not site.door
            for url in probe_urls(words, project_data())
        }  # fmt: skip
        arguments = {"probe_urls": sorted(urls)}
        answer = self._execute_module("host_facts", module_args=arguments, task_vars=variables)
        if answer.get("failed"):
            return dict(answer)
        facts = HostFacts.model_validate(answer["facts"])
        around = Site.of(site.door, _said(variables))
        builds: list[BuildPlan] = []
        problems: list[str] = []
        for words, waiting in asked:
            if words is None:
                continue
            asking = {one: orders[one] for one in waiting}
            try:
                builds.append(
                    plan_build(
                        host, asking, words, facts, project_data(), around,
                        onednn_sha256=_onednn_sha256(words),
                    )
                )  # fmt: skip
            except PlanError as error:
                problems.append(str(error))
        if problems:
            return {"failed": True, "msg": "\n".join(problems)}
        return {
            "changed": False,
            "builds": [one.model_dump(mode="json") for one in builds],
            "store": str(STORE),
        }

    def _chosen(
        self, host: str, orders: dict[str, WheelOrder], variables: dict[str, Any]
    ) -> dict[str, Any]:
        """The wheel for this server: where it lies and its checksum."""
        order = orders.get(host)
        if order is None:
            return {"changed": False, "wheel": {}}
        site = read_site(variables["groups"], variables["hostvars"], self._loader)
        carried, mirrored = _carried(orders), _mirrored(variables)
        found = choose(order, [*carried, *mirrored])
        if found is None and self._task.check_mode:
            return {"changed": False, "wheel": {}}
        if found is None:
            why = reasons(order, [*carried, *mirrored]) or ["nobody has compiled it"]
            return {"failed": True, "msg": f"{host}: no wheel {order.key}: " + "; ".join(why)}
        wheel = {"filename": found.filename, "sha256": found.sha256, "src": "", "url": ""}
        if site.door is not None:
            # The stage before has seen to it that the mirror host has what the controller has.
            wheel["url"] = f"http://{site.door}/static/wheels/{found.key}/{found.filename}"
        else:
            wheel["src"] = str(STORE / found.key / found.filename)
        return {"changed": False, "wheel": wheel}


def _orders(variables: dict[str, Any], servers: Iterable[str]) -> dict[str, WheelOrder]:
    """What those of the servers that are in this run need compiled, by host."""
    found = {}
    for host in servers:
        plan = variables["hostvars"][host].get("vllm_plan")
        if plan and plan["wheel"]:
            found[host] = WheelOrder.model_validate(dict(plan["wheel"]))
    return found


def _carried(orders: dict[str, WheelOrder]) -> list[Kept]:
    """The controller's wheels of the keys that are asked for."""
    found = []
    for key in sorted({order.key for order in orders.values()}):
        for path in sorted((STORE / key).glob("*.whl")):
            with path.open("rb") as file:
                found.append(Kept(key, path.name, hashlib.file_digest(file, "sha256").hexdigest()))
    return found


def _said(variables: dict[str, Any]) -> dict[str, Any]:
    """What the mirror host has said of itself in this run."""
    for host in variables["groups"].get(GROUP, []):
        asked = variables["hostvars"][host].get("vllm_site_mirror") or {}
        if asked.get("mirror"):
            return dict(asked["mirror"])
    return {}


def _mirrored(variables: dict[str, Any]) -> list[Kept]:
    """The mirror host's wheels."""
    found = []
    for path, sha256 in sorted(Site.of(None, _said(variables)).wheels.items()):
        _, key, filename = path.rsplit("/", 2)
        found.append(Kept(key, filename, sha256))
    return found


def _shared(orders: dict[str, WheelOrder], variables: dict[str, Any]) -> list[dict[str, str]]:
    """The controller's wheels that the mirror host lacks."""
    there = set(_mirrored(variables))
    return [
        {
            "path": f"wheels/{one.key}/{one.filename}",
            "src": str(STORE / one.key / one.filename),
            "sha256": one.sha256,
        }
        for one in _carried(orders)
        if one not in there
    ]


def _onednn_sha256(words: Words) -> str | None:
    """The checksum of the archive on the controller that the words name."""
    archive = words.sources.onednn.archive
    if archive is None:
        return None
    with Path(archive).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
