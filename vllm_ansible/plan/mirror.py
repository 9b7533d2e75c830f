"""The mirror host's plan: what its servers need, fetched once for all of them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from vllm_ansible.plan.managed import APT, DEFAULT_SITE, UNITS, WORKPLACES, plain
from vllm_ansible.plan.result import (
    Managed,
    ModelSnapshot,
    PlanError,
    Service,
    Tree,
    Upstream,
    canonical,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vllm_ansible.plan.result import Needs
    from vllm_ansible.schema import Mirror


TOOLS = "/opt/vllm-mirror"
OS_PACKAGES = ["ca-certificates", "nginx", "python3-venv"]
# Seconds until the read indexes answer.
READY_TIMEOUT = 60


class Artifact(BaseModel):
    """A file that the mirror host keeps, below its store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    sha256: str
    urls: list[str]


class MirrorPlan(BaseModel):
    """Everything that the role `mirror` is told, and what is recorded when it has been done.

    `digest` changes with everything that changes the mirror host; `managed` and `receipt` are what
    the record holds, for a later run to compare the host with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: list[str]
    port: int
    root: str
    max_gib: int
    indexes: list[Upstream]
    channels: list[Upstream]
    artifacts: list[Artifact]
    snapshots: list[ModelSnapshot]
    archives: list[str]
    # Where the mirror host's own tools come from; empty means the client's own index.
    tools_index: str
    digest: str = ""
    managed: Managed = Managed()
    receipt: dict[str, Any] = Field(default_factory=dict)


def plan_mirror(
    host: str, words: Mirror, address: str, needs: Mapping[str, Needs], *also: object
) -> MirrorPlan:
    """Puts together what the servers behind one mirror host need.

    Args:
        host: The mirror host's name, for errors.
        words: `vllm_mirror`.
        address: Where the servers reach it.
        needs: What each server needs from outside, by its name.
        also: What else changes the host: the role's code and variables, its name servers.

    Raises:
        PlanError: Servers want different things under one name.
    """
    problems: list[str] = []
    indexes = _merged(needs, "indexes", problems)
    channels = _merged(needs, "channels", problems)
    if problems:
        raise PlanError(host, problems)
    installers = {one.installer.filename: one.installer for one in needs.values()}
    snapshots = {(m.name, m.revision): m for one in needs.values() for m in one.models}
    plan = MirrorPlan(
        listen=[address],
        port=words.port,
        root=words.root,
        max_gib=words.max_gib,
        indexes=indexes,
        channels=channels,
        artifacts=[
            Artifact(path=f"installers/{name}", sha256=one.sha256, urls=one.urls)
            for name, one in sorted(installers.items())
        ],
        snapshots=[
            model.model_copy(update={"path": f"{words.root}/models/{name}/{revision}"})
            for (name, revision), model in sorted(snapshots.items())
        ],
        archives=sorted({url for one in needs.values() for url in one.archives}),
        tools_index=next((one.url for one in indexes if one.name == "default"), ""),
    )
    digest = canonical([plan.model_dump(mode="json"), *also])
    models = [one.model_dump(include={"name", "revision", "path"}) for one in plan.snapshots]
    return plan.model_copy(
        update={"digest": digest, "managed": _managed(plan), "receipt": {"models": models}}
    )


def _managed(plan: MirrorPlan) -> Managed:
    """What the role leaves on the host. The store's other files are its manifest's business."""
    names = [one.name for one in plan.indexes]
    root, settings = plan.root, "/etc/vllm-mirror"
    stamps = [f"{TOOLS}/.requirements-sha256", f"{TOOLS}/gunicorn.conf.py"] if names else []
    files = [
        "/etc/nginx/conf.d/vllm-mirror.conf",
        f"{UNITS}/nginx.service.d/vllm-mirror.conf",
        f"{UNITS}/proxpi@.service",
        *stamps,
        *(f"{settings}/{name}.env" for name in names),
        *(f"{root}/store/{one.path}" for one in plan.artifacts),
    ]
    return Managed(
        files=plain(files),
        units=["nginx.service", *(f"proxpi@{name}.service" for name in names)],
        directories=[
            root, f"{root}/store", f"{root}/models", f"{root}/cache", settings,
            f"{UNITS}/nginx.service.d", "/opt/vllm", "/var/lib/vllm",
        ],
        trees=[
            Tree(path=f"{root}/store", kind="store"),
            Tree(path=f"{root}/models", kind="models"),
            Tree(path=f"{root}/cache"),
            Tree(path=TOOLS),
            *(Tree(path=path) for path in (*APT, *WORKPLACES)),
        ],
        users=["vllm-mirror"] if names else [],
        groups=["vllm-mirror"] if names else [],
        os_packages=OS_PACKAGES,
        absent=[f"{settings}/*.env"],
        switched_off=[DEFAULT_SITE],
        services=[
            Service(
                unit=f"proxpi@{name}.service",
                address=f"{_bracketed(plan.listen[0])}:{plan.port}",
                path=f"/health/{name}",
                ready_timeout=READY_TIMEOUT,
                inputs=[f"{UNITS}/proxpi@.service", f"{settings}/{name}.env", *stamps],
            )
            for name in names
        ],
    )  # fmt: skip


def _bracketed(address: str) -> str:
    """An address as a URL writes it."""
    return f"[{address}]" if ":" in address else address


def _merged(needs: Mapping[str, Needs], kind: str, problems: list[str]) -> list[Upstream]:
    """Each upstream once; a problem where two servers mean different ones by one name."""
    found: dict[str, tuple[str, Upstream]] = {}
    for host, one in sorted(needs.items()):
        upstreams: Iterable[Upstream] = getattr(one, kind)
        for upstream in upstreams:
            first, known = found.setdefault(upstream.name, (host, upstream))
            if known.url != upstream.url:
                problems.append(
                    f"vllm_sources of {first} and {host} name different {kind} as "
                    f"{upstream.name} ({known.url or 'default'}, {upstream.url or 'default'}): "
                    f"the servers behind one mirror host share their sources"
                )
    return [upstream for _, (_, upstream) in sorted(found.items())]
