"""What a host's plan has to know of the site around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Mapping


class Site(BaseModel):
    """The site's mirror host, as seen before a plan is made.

    Attributes:
        mirror: Its address and port; None where the site has no mirror host.
        answers: The addresses outside that it was asked about, and whether they answered it.
        indexes: Package indexes of which it holds packages from a bundle.
        repositories: Debian repositories that it holds, as `debian-12-x86_64`.
        wheels: Compiled wheels that it holds: path below its store to SHA-256.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mirror: str | None = None
    answers: dict[str, bool] = Field(default_factory=dict)
    indexes: list[str] = Field(default_factory=list)
    repositories: list[str] = Field(default_factory=list)
    wheels: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def of(cls, door: str | None, facts: Mapping[str, Any]) -> Site:
        """A site by what the module `mirror_facts` reports of its mirror host.

        Args:
            door: The mirror host's address and port; None where there is none.
            facts: Its facts; empty where it has not been asked yet.
        """
        files = {
            tuple(path.split("/")): str(entry["sha256"])
            for path, entry in facts.get("files", {}).items()
        }
        return cls(
            mirror=door,
            answers=facts.get("reachable", {}),
            indexes=sorted({path[1] for path in files if path[0] == "pypi"}),
            repositories=sorted({path[1] for path in files if path[0] == "apt"}),
            wheels={"/".join(p): digest for p, digest in files.items() if p[0] == "wheels"},
        )
