"""What a host's plan has to know of the site around it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Site(BaseModel):
    """The site's mirror host, as seen before a plan is made.

    Attributes:
        mirror: Its address and port; None where the site has no mirror host.
        answers: The addresses outside that it was asked about, and whether they answered it.
        indexes: Package indexes of which it holds packages from a bundle.
        repositories: Debian repositories that it holds, as `debian-12-x86_64`.
        wheels: Compiled wheels that it holds: path below its store to SHA-256.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    mirror: str | None = None
    answers: dict[str, bool] = Field(default_factory=dict)
    indexes: list[str] = Field(default_factory=list)
    repositories: list[str] = Field(default_factory=list)
    wheels: dict[str, str] = Field(default_factory=dict)
