"""Fleet files: the hosts of one campaign over several machines, with their devices, runtimes and limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hwnas.config import Above, FileName, load_toml
from hwnas.errors import InputError, UsageError
from hwnas.files import printable
from hwnas.profile.options import AUTO
from hwnas.profile.remote.connection import ConnectionLimits
from hwnas.profile.remote.host import Host

Minutes = Annotated[float, Above(0, 1_000_000)]


@dataclass(frozen=True, kw_only=True)
class FleetHost:
    """One host: how it is reached, and what is measured on it, one thing after another."""

    address: str
    """Address for ssh: `user@host`, or a name of its configuration."""
    devices: tuple[FileName, ...] = (AUTO,)
    runtimes: tuple[FileName, ...] = (AUTO,)
    python: str = "python3"
    agent: str = "sent"
    limit_minutes: Minutes = 60.0
    """Time limit for one network."""

    @property
    def host(self) -> Host:
        """How it is reached."""
        return Host(address=self.address, python=self.python, agent=self.agent)


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The hosts of a campaign.

    Raises:
        InputError: There is no host, or one is named twice.
    """

    hosts: tuple[FleetHost, ...]
    give_up_minutes: Minutes = 15.0
    """Time without a connection after which a host is given up."""

    def __post_init__(self) -> None:
        addresses = [host.address for host in self.hosts]
        if not addresses or len(set(addresses)) < len(addresses):
            raise InputError("a fleet must have hosts, and each of them once", got=", ".join(addresses) or "none")
        empty = [host.address for host in self.hosts if not (host.devices and host.runtimes)]
        if empty:
            raise InputError("a host of a fleet must have devices and runtimes", got=", ".join(empty))
        for host in self.hosts:
            _ = host.host  # which checks its address

    @property
    def limits(self) -> ConnectionLimits:
        """Times after which a host is given up."""
        return ConnectionLimits(give_up_s=60 * self.give_up_minutes)


def load_fleet(path: Path) -> Fleet:
    """Read a fleet file.

    Raises:
        InputError: The file cannot be read, or a value in it is not valid.
    """
    try:
        return load_toml(Fleet, path)
    except UsageError as error:  # of a host, which --on names as well
        raise InputError(f"{printable(path)}: {error.message}", got=error.got) from error
    except InputError as error:
        message = error.message if str(path) in error.message else f"{printable(path)}: {error.message}"
        raise InputError(message, got=error.got, known=error.known, hint=error.hint) from error


@dataclass(frozen=True, kw_only=True)
class FleetRow:
    """State of the work of one host with one device and runtime."""

    host: str
    device: str
    runtime: str
    num_measured: int = 0
    num_failed: int = 0
    state: str = "waits"
    """`waits`, `measures`, `done`, or the reason why it ended."""


def fleet_cells(rows: Sequence[FleetRow]) -> list[tuple[object, ...]]:
    """Return the cells of a table of who does what."""
    return [(row.host, row.device, row.runtime, row.num_measured, row.num_failed, row.state) for row in rows]


FLEET_COLUMNS = ("host", "device", "runtime", "measured", "failed", "state")
