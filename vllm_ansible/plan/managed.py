"""Everything that a host gets from us, for its receipt. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_ansible.plan import kernels
from vllm_ansible.plan.result import (
    Lines,
    Link,
    Managed,
    ManagedFile,
    Member,
    Service,
    Tree,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_ansible.plan.result import InstancePlan, Miniconda
    from vllm_ansible.schema import Words

CONFIG = "/etc/vllm"
STATE = "/var/lib/vllm"
UNITS = "/etc/systemd/system"
CURRENT = "/opt/vllm/current"
RELEASES = "/opt/vllm/releases"
MODELS = "/srv/models"
DOOR_LOG = "/var/log/nginx/vllm-access.json"
# Of the plugins: their modules, and how vLLM finds them.
PLUGIN = f"{kernels.PLUGINS}/kept_graphs-1.0.dist-info"
PLUGIN_FILES = (
    f"{kernels.PLUGINS}/half_weights.py", f"{kernels.PLUGINS}/kept_graphs.py",
    f"{PLUGIN}/METADATA", f"{PLUGIN}/entry_points.txt",
)  # fmt: skip
# nginx's user, which may use the engines' sockets.
NGINX_USER = "www-data"
# The package's welcome page. The receipt keeps it only where it is off.
DEFAULT_SITE = Link(
    path="/etc/nginx/sites-enabled/default", target="/etc/nginx/sites-available/default"
)
# What apt is told of a mirror host: the role os_packages writes it, also into hosts of old plans.
APT = ("/etc/apt/sources.list.d/vllm-mirror.sources", "/etc/apt/vllm-mirror.conf")
# Downloads on their way, programs that fetch, what compiles, and what interruptions leave.
WORKPLACES = (
    "/opt/vllm/cache", "/opt/vllm/clients", "/run/vllm-ansible", "/var/cache/vllm-ansible",
    "/var/cache/vllm-build",
)  # fmt: skip


def plain(paths: Iterable[str]) -> list[ManagedFile]:
    """Files without secrets."""
    return [ManagedFile(path=path, secret=False) for path in paths]


def with_miniconda(managed: Managed, miniconda: Miniconda) -> Managed:
    """What a host has beside `managed` where Miniconda is installed."""
    prefix = miniconda.prefix
    pip = [Lines(kind="pip", subject="/etc/pip.conf")] if miniconda.pip_conf else []
    return managed.model_copy(
        update={
            "files": [
                *plain(line.subject for line in pip),
                *plain([f"{prefix}/.condarc"]),
                *managed.files,
            ],
            "marks": [f"{prefix}/.installer-sha256"],
            "links": [*managed.links, Link(path=f"{prefix}/envs/vllm", target=CURRENT)],
            "directories": ["/opt/vllm", *managed.directories],
            "trees": [
                *managed.trees,
                Tree(path=prefix, kind="conda"),
                *(Tree(path=path) for path in (*APT, *WORKPLACES)),
            ],
            "lines": [*pip, *(Lines(kind="conda", subject=user) for user in miniconda.users)],
        }
    )


def of_server(
    release: str, miniconda: Miniconda, instances: list[InstancePlan], words: Words, apt: list[str]
) -> Managed:
    """What a server has.

    Args:
        release: The path of the release in use.
        miniconda: Its Miniconda.
        instances: Its instances.
        words: What the inventory says.
        apt: The packages that it needs of the operating system.
    """
    json_log = words.logs.gateway_access == "json"
    rotation = plain(["/etc/logrotate.d/vllm-gateway"]) if json_log else []
    drop_ins = [f"{UNITS}/{one.unit}.d" for one in instances if one.drop_in]
    managed = Managed(
        files=[
            *rotation,
            *plain(
                [
                    f"{UNITS}/nginx.service.d/vllm.conf",
                    f"{UNITS}/vllm@.service",
                    *PLUGIN_FILES,
                    "/etc/nginx/conf.d/vllm.conf",
                ]
            ),
            ManagedFile(path="/etc/nginx/vllm/keys.map", secret=True),
            ManagedFile(path=f"{CONFIG}/api_key", secret=True),
            *(file for one in instances for file in _files(one)),
        ],
        links=[Link(path=CURRENT, target=release)],
        units=[*(one.unit for one in instances), "nginx.service"],
        directories=[
            CONFIG, kernels.PLUGINS, PLUGIN, STATE, RELEASES, MODELS, "/etc/nginx/vllm",
            f"{UNITS}/nginx.service.d", *drop_ins,
        ],
        trees=[
            Tree(path=RELEASES, kind="releases"),
            Tree(path=MODELS, kind="models"),
            Tree(path=DOOR_LOG, kind="log"),
            Tree(path="/var/cache/vllm"),
            Tree(path=f"{STATE}/generations"),
            *(Tree(path=f"{STATE}/{one.name}.started-with") for one in instances),
        ],
        users=["vllm"],
        groups=["vllm"],
        memberships=[Member(user=NGINX_USER, group="vllm")],
        os_packages=apt,
        absent=[
            f"{CONFIG}/*.yaml", f"{CONFIG}/*.jinja", f"{CONFIG}/*.logging.json",
            *([] if json_log else ["/etc/logrotate.d/vllm-gateway"]),
        ],
        switched_off=[DEFAULT_SITE],
        services=[_service(one, release) for one in instances],
        environments=[release],
    )  # fmt: skip
    return with_miniconda(managed, miniconda)


def _files(one: InstancePlan) -> list[ManagedFile]:
    """What an instance reads, and its unit's drop-in."""
    drop_in = [f"{UNITS}/{one.unit}.d/vllm.conf"] if one.drop_in else []
    return [
        ManagedFile(path=f"{CONFIG}/{one.name}.yaml", secret=bool(one.secret_options)),
        ManagedFile(path=f"{CONFIG}/{one.name}.env", secret=True),
        *plain(file.path for file in one.files),
        *plain(drop_in),
    ]


def _service(one: InstancePlan, release: str) -> Service:
    """An instance, as one asks whether it is well."""
    return Service(
        unit=one.unit,
        socket=one.socket,
        address=one.address,
        ready_timeout=one.ready_timeout,
        inputs=[f"{UNITS}/vllm@.service", *(file.path for file in _files(one))],
        trees=[release, one.model_path],
    )
