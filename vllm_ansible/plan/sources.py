"""Where bits come from: as the inventory says, and as a server behind the site's mirror sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from vllm_ansible.data import CondaMirror, PackageMirror

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_ansible.data import Data, Profile
    from vllm_ansible.schema import Sources

SITE = "site"


class Named(NamedTuple):
    """An upstream and the name under which the mirror host serves it; `` is the client's own."""

    name: str
    url: str


class Resolved(BaseModel):
    """All sources of one host, in order. `pip` is what `/etc/pip.conf` says, by section."""

    model_config = ConfigDict(frozen=True)

    miniconda: list[str] = Field(default_factory=list)
    conda: CondaMirror = CondaMirror()
    packages: PackageMirror = PackageMirror()
    pip: dict[str, dict[str, str]] = Field(default_factory=dict)
    git: list[str] = Field(default_factory=list)
    # What a mirror calls the engine's indexes; with vLLM's version where their address names it.
    engine_name: str = "engine"

    def indexes(self) -> list[Named]:
        """The package indexes with the names under which a mirror serves them."""
        packages = self.packages
        found = [Named("default", packages.default_index or "")]
        found += _numbered(self.engine_name, packages.engine_indexes)
        return found + _numbered("torch", packages.torch_indexes)

    def channels(self) -> list[Named]:
        """The conda channels with the names under which a mirror serves them."""
        custom = [
            Named(name, f"{url.rstrip('/')}/{name}")
            for name, url in self.conda.custom_channels.items()
        ]
        found = {one.url: one for one in custom}
        for url in (one.rstrip("/") for one in self.conda.default_channels):
            taken = {one.name for one in found.values()}
            name = _last(url) if _last(url) not in taken else f"{_last(url)}-{len(taken)}"
            found.setdefault(url, Named(name, url))
        return sorted(found.values())


def _last(url: str) -> str:
    """The last part of an address's path."""
    return urlsplit(url).path.rstrip("/").rpartition("/")[2] or "channel"


def _numbered(name: str, urls: Iterable[str]) -> list[Named]:
    return [Named(f"{name}-{n}" if n > 1 else name, url) for n, url in enumerate(urls, start=1)]


def resolve(said: Sources, data: Data, version: str) -> Resolved:
    """What the inventory's words say, over what their profile says.

    Args:
        said: `vllm_sources`.
        data: The project's data.
        version: vLLM's, for addresses that name it.
    """
    name = said.profile or data.mirrors.default_profile
    # `site` is what the servers see; the mirror host itself fetches as the default profile does.
    name = data.mirrors.default_profile if name == SITE else name
    profile = data.mirrors.profiles.get(name)
    packages = _packages(profile, said)
    named = any("{version}" in url for url in packages.engine_indexes)
    engines = [url.replace("{version}", version) for url in packages.engine_indexes]
    packages = packages.model_copy(update={"engine_indexes": engines})
    pip = _pip(packages.default_index) if said.pip is None else said.pip
    return Resolved(
        miniconda=said.miniconda.mirrors or (profile.miniconda if profile else []),
        conda=said.conda or (profile.conda if profile else CondaMirror()),
        packages=packages,
        pip=pip,
        git=said.git if said.git is not None else profile.git if profile else [],
        engine_name=f"engine-{version}" if named else "engine",
    )


def _packages(profile: Profile | None, said: Sources) -> PackageMirror:
    values: dict[str, Any] = profile.packages.model_dump() if profile else {}
    values |= {key: getattr(said.packages, key) for key in said.packages.model_fields_set}
    return PackageMirror(**{key: value for key, value in values.items() if value is not None})


def _pip(default_index: str | None) -> dict[str, dict[str, str]]:
    """What pip is told of an index: its address, and to trust it where that is plain HTTP."""
    if not default_index:
        return {}
    told = {"index-url": default_index}
    parts = urlsplit(default_index)
    if parts.scheme == "http" and parts.hostname:
        told["trusted-host"] = parts.hostname
    return {"global": told}


def through_mirror(upstream: Resolved, mirror: str, data: Data, said: Sources) -> Resolved:
    """What a server asks when the site has a mirror host.

    Args:
        upstream: What the mirror host itself asks.
        mirror: The mirror's address and port.
        data: The project's data, with the profile `site`.
        said: `vllm_sources`, for what it says of pip.
    """
    shape = data.mirrors.profiles[SITE]

    def of(template: str, name: str = "") -> str:
        return template.replace("{mirror}", mirror).replace("{name}", name)

    def indexes(templates: list[str], kind: str) -> list[str]:
        names = [one.name for one in upstream.indexes() if one.name.startswith(kind)]
        return [of(template, name) for name in names for template in templates]

    default = of(shape.packages.default_index or "", "default")
    names = {one.url: one.name for one in upstream.channels()}
    channels = [
        of(template, names[url.rstrip("/")])
        for url in upstream.conda.default_channels
        for template in shape.conda.default_channels
    ]
    custom = of(next(iter(shape.conda.custom_channels.values())))
    return Resolved(
        miniconda=[of(one) for one in shape.miniconda],
        conda=CondaMirror(
            default_channels=channels,
            custom_channels=dict.fromkeys(upstream.conda.custom_channels, custom),
        ),
        packages=PackageMirror(
            default_index=default,
            engine_indexes=indexes(shape.packages.engine_indexes, "engine"),
            torch_indexes=indexes(shape.packages.torch_indexes, "torch"),
        ),
        pip=_pip(default) if said.pip is None else said.pip,
        git=upstream.git,
    )
