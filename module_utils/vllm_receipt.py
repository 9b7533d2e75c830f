"""The receipt: what of this project is on a host, and how older ones are read."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_files import as_json, read_json_object, write_atomic
from ansible.module_utils.vllm_records import difference

FORMAT = 2
BEFORE_FORMAT = 1
# What a removal needs and the first format did not say: these hosts had all of it, and no more.
NGINX_DROP_INS = "/etc/systemd/system/nginx.service.d"
DEFAULT_SITE = {
    "path": "/etc/nginx/sites-enabled/default",
    "target": "/etc/nginx/sites-available/default",
}
WORKPLACES = (
    "/opt/vllm/cache", "/opt/vllm/clients", "/run/vllm-ansible", "/var/cache/vllm-ansible",
    "/var/cache/vllm-build", "/etc/apt/sources.list.d/vllm-mirror.sources",
    "/etc/apt/vllm-mirror.conf",
)  # fmt: skip
CONDA = "/opt/miniconda3"


def read_receipt(path: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the receipt, and the difference that its age or its absence is.

    A receipt of an older format is returned as one of this format.

    Raises:
        HostError: a newer version of the project wrote it.
    """
    try:
        content = read_json_object(path)
    except (ValueError, OSError) as error:
        return None, difference("receipt", str(path), "a readable receipt", f"corrupt: {error}")
    if content is None:
        return None, difference("receipt", str(path), "a receipt", "none")
    found = content.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise HostError(
            f"{path} has format {found}, and this version of the project knows formats up to"
            f" {FORMAT}; use the version that wrote it"
            f" ({content.get('project_version') or 'a newer one'}), or move the file away",
            format=found,
        )
    if found == 1:
        older = difference("receipt", str(path), f"format {FORMAT}", "format 1")
        return of_format_1(content, path), older
    if found != FORMAT:
        wrong = f"corrupt: format {found!r}"
        return None, difference("receipt", str(path), f"format {FORMAT}", wrong)
    return content, None


def of_format_1(old: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a receipt of the first format as one of this.

    It listed files, links and units. What else such a host has from us follows from what it is: a
    server (its content has a release), a web UI (it has endpoints), or a mirror host.

    Args:
        old: the receipt.
        path: where it was; a mirror host's lies in the root of what it serves.
    """
    content = old.get("content") or {}
    new: dict[str, Any] = {
        **old,
        "format": FORMAT,
        "switched_off": [] if Path(DEFAULT_SITE["path"]).is_symlink() else [DEFAULT_SITE],
    }
    if content.get("release"):
        new.update(server_of_format_1(old))
    elif "endpoints" in content:
        new.update(webui_of_format_1(old))
    else:
        new.update(mirror_of_format_1(str(path.parent)))
    new["trees"] = [*new["trees"], *({"path": one, "kind": "own"} for one in WORKPLACES)]
    return new


def server_of_format_1(old: dict[str, Any]) -> dict[str, Any]:
    """Return what a server of that time has besides."""
    names = [one["name"] for one in (old.get("content") or {}).get("instances") or []]
    state = "/var/lib/vllm"
    paths = ["/opt/vllm", "/etc/vllm", state, "/opt/vllm/releases", "/srv/models"]
    paths += ["/etc/nginx/vllm"]
    files = [one["path"] for one in old.get("files") or []]
    paths += sorted({str(Path(one).parent) for one in files if one.endswith(".d/vllm.conf")})
    trees = {
        "/opt/vllm/releases": "releases", "/srv/models": "models", CONDA: "conda",
        "/var/log/nginx/vllm-access.json": "log", "/var/cache/vllm": "own",
        **{f"{state}/{name}.started-with": "own" for name in names},
    }  # fmt: skip
    return {
        "directories": [{"path": one} for one in paths],
        "trees": [{"path": one, "kind": kind} for one, kind in trees.items()],
        "users": [{"name": "vllm"}],
        "groups": [{"name": "vllm"}],
        "memberships": [{"user": "www-data", "group": "vllm"}],
        **conda_of_format_1(),
    }


def conda_of_format_1() -> dict[str, Any]:
    """Return what the shells of all users may have, as that time did not note whose."""
    return {
        "lines": [{"kind": "conda", "subject": "*"}, {"kind": "pip", "subject": "/etc/pip.conf"}]
    }


def webui_of_format_1(old: dict[str, Any]) -> dict[str, Any]:
    """Return what a web UI of that time has besides."""
    # It was written, and not listed.
    drop_in = {"path": f"{NGINX_DROP_INS}/vllm.conf", "secret": False}
    paths = ["/opt/vllm", "/etc/vllm-webui", "/var/lib/vllm", NGINX_DROP_INS]
    trees = {
        "/opt/vllm/webui": "own", CONDA: "conda", "/var/cache/vllm-webui": "own",
        "/var/lib/vllm/webui.started-with": "own",
    }  # fmt: skip
    return {
        "files": [*old.get("files", []), drop_in],
        "directories": [{"path": one} for one in paths],
        "trees": [{"path": one, "kind": kind} for one, kind in trees.items()],
        "users": [{"name": "vllm-webui"}],
        "groups": [{"name": "vllm-webui"}],
        **conda_of_format_1(),
    }


def mirror_of_format_1(root: str) -> dict[str, Any]:
    """Return what a mirror host of that time has besides."""
    paths = [root, *(f"{root}/{one}" for one in ("store", "models", "cache")), NGINX_DROP_INS]
    trees = {
        f"{root}/store": "store", f"{root}/models": "models", f"{root}/cache": "own",
        "/opt/vllm-mirror": "own",
    }  # fmt: skip
    return {
        "directories": [{"path": one} for one in [*paths, "/etc/vllm-mirror", "/opt/vllm"]],
        "trees": [{"path": one, "kind": kind} for one, kind in trees.items()],
        "users": [{"name": "vllm-mirror"}],
        "groups": [{"name": "vllm-mirror"}],
    }


def key_path(receipt: Path) -> Path:
    """Return where the key lies with which a host seals its secret files."""
    return receipt.with_suffix(".key")


def read_key(receipt: Path) -> bytes:
    """Return the key; nothing when there is none."""
    try:
        return key_path(receipt).read_bytes()
    except OSError:
        return b""


def made_key(receipt: Path) -> bytes:
    """Return the key, made now if there is none. It never leaves the host."""
    key = read_key(receipt)
    if not key:
        key = secrets.token_bytes(32)
        write_atomic(key_path(receipt), key, 0o600)
    return key


def read_before(path: Path) -> dict[str, Any]:
    """Return what was on the host before us, by what it is; empty where that is not known.

    Raises:
        HostError: the file cannot be read, so that a removal would not know what is not ours.
    """
    try:
        content = read_json_object(path) or {}
    except (ValueError, OSError) as error:
        raise HostError(
            f"{path}, which says what was here before us, is damaged: {error}"
        ) from error
    there = content.get("there", {})
    return there if isinstance(there, dict) else {}


def write_before(path: Path, there: dict[str, Any]) -> None:
    """Note what was on the host before us."""
    content = {"format": BEFORE_FORMAT, "there": there}
    write_atomic(path, as_json(content).encode(), 0o600)


def same(one: Any, other: Any) -> bool:
    """Say whether two receipts say the same."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
