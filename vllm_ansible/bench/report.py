"""The benchmark's figures, the ratios that matter, and whether they are within their targets."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, computed_field

from vllm_ansible.bench.verdict import Verdict

Install = Literal["source", "wheel"]

# A site of several servers asks the outside for what a site of one does.
MOST_BYTES = 1.05
# A further server installs what is at the site.
MOST_FURTHER = 0.3


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Count(_Frozen):
    """Bytes that came into one machine, as the kernel counted them (IP packets with headers).

    Attributes:
        internet: From beyond this computer's bridge.
        origin: From the lab's origin, which stands for a part of the Internet.
    """

    internet: int = 0
    origin: int = 0

    @property
    def total(self) -> int:
        """Bytes from outside."""
        return self.internet + self.origin


class Run(_Frozen):
    """One provisioning.

    Attributes:
        servers: Servers of the site at its end.
        added: Servers that it made.
        seconds: Of wall-clock time; booting the machines is not in it.
        stages: Seconds of each stage.
        traffic: Bytes into each machine of the site, by its name.
        compilations: Builds of the engine that the machines' systemd has started.
        answers: What the added servers' models said, by server.
    """

    servers: int
    added: int
    seconds: float
    stages: dict[str, float]
    traffic: dict[str, Count]
    compilations: int
    answers: dict[str, str]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def outside(self) -> int:
        """Bytes from outside, into all machines of the site."""
        return sum(count.total for count in self.traffic.values())


class SitesReport(_Frozen):
    """Two sites: one of a single server, to which the others are added, and one made at once.

    Attributes:
        install: How the engine came: "wheel" or "source".
        engine: What was installed, in words.
        one: A site of one server.
        more: The further servers, added to that site.
        all: A site of all servers, made at once.
    """

    install: Install
    engine: str
    one: Run
    more: Run
    all: Run

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bytes_ratio(self) -> float:
        """Bytes from outside of the site of all servers, as a multiple of those of one."""
        return round(self.all.outside / max(self.one.outside, 1), 4)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def further_seconds(self) -> float:
        """Seconds of each further server, when all are made at once."""
        return round((self.all.seconds - self.one.seconds) / (self.all.servers - 1), 3)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def further_ratio(self) -> float:
        """Seconds of each further server, as a share of those of the first."""
        return round(self.further_seconds / self.one.seconds, 4)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def added_seconds(self) -> float:
        """Seconds of each further server, when they are added to a running site."""
        return round(self.more.seconds / self.more.added, 3)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def added_ratio(self) -> float:
        """Seconds of each added server, as a share of those of the first."""
        return round(self.added_seconds / self.one.seconds, 4)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdicts(self) -> list[Verdict]:
        """The figures that have targets."""
        compiled = 1 if self.install == "source" else 0
        return [
            Verdict(name="bytes", value=self.bytes_ratio, bound="≤", target=MOST_BYTES),
            Verdict(name="compilations", value=self.all.compilations, bound="=", target=compiled),
            Verdict(
                name="compilations, then added",
                value=self.one.compilations + self.more.compilations,
                bound="=",
                target=compiled,
            ),
            Verdict(
                name="further server", value=self.further_ratio, bound="≤", target=MOST_FURTHER
            ),
        ]

    @property
    def met(self) -> bool:
        """Whether every figure is within its target."""
        return all(verdict.met for verdict in self.verdicts)
