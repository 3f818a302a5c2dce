"""Messages between a campaign and the agent on another machine: lines of JSON, some of them followed by bytes.

Python 3.10 and its standard library, as the agent imports it. Neither side trusts the other's sizes: lines and payloads
have limits, and a payload is used only if its length and SHA-256 are those that its line states.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, BinaryIO

from hwnas.config import Above, Between, from_mapping, parse_json, shown, to_mapping
from hwnas.devices import Machine
from hwnas.errors import InputError
from hwnas.runs import Environment

PROTOCOL = "hwnas.agent/1"
"""Version of the messages that this version of hwnas sends and takes."""

MARK = "hwnas_agent"
"""Key of the first line of an agent; what a login shell prints before it is skipped."""

HEARTBEAT_S = 5.0
"""Time between two lines of an agent that is at work."""

MAX_LINE_BYTES = 1 << 24
MAX_PAYLOAD_BYTES = 1 << 31

_MAX_PAYLOADS = 16


@dataclass(frozen=True, kw_only=True)
class PayloadHeader:
    """Length and digest of bytes that follow a line."""

    name: str
    num_bytes: Annotated[int, Between(0, MAX_PAYLOAD_BYTES)]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Hello:
    """First line of a campaign."""

    protocol: str = PROTOCOL
    code: str
    """SHA-256 of the modules of hwnas that measure."""
    campaign: str
    """Identifies the campaign, so that a later connection of it can replace an earlier one."""
    owner: str
    """The user and machine that measure, for the messages of others."""
    limit_s: Annotated[float, Above(0, 1e8)] | None = None
    """Time after which a network is given up; None: an hour."""


@dataclass(frozen=True, kw_only=True)
class Welcome:
    """First line of an agent that can measure."""

    protocol: str
    code: str
    hwnas: str
    machine: Machine
    software: Environment
    undelivered: Mapping[str, Any] | None = None
    """Answer to a request of this campaign that its earlier connection did not deliver."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """First line of an agent that cannot measure."""

    kind: str
    """One of `busy`, `version`, `python`, `package` and `storage`."""
    message: str
    got: str | None = None
    hint: str | None = None


@dataclass(frozen=True)
class Message:
    """A line and the payloads that followed it."""

    values: Mapping[str, Any]
    payloads: Mapping[str, bytes] = field(default_factory=dict)


def write_message(file: BinaryIO, values: Mapping[str, Any], payloads: Mapping[str, bytes] | None = None) -> None:
    """Write a line, and the payloads after it."""
    payloads = payloads or {}
    headers = [
        to_mapping(PayloadHeader(name=name, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
        for name, data in payloads.items()
    ]
    line = json.dumps({**values, "payloads": headers} if headers else dict(values), allow_nan=False)
    file.write(line.encode() + b"\n")
    for data in payloads.values():
        file.write(data)
    file.flush()


def read_message(file: BinaryIO, *, source: str) -> Message | None:
    """Read a line and its payloads; None at the end of the stream, also in the middle of a message.

    Raises:
        InputError: The line is too long or no table of JSON, or a payload is too long or not what its line states.
    """
    line = file.readline(MAX_LINE_BYTES)
    if not line.endswith(b"\n"):
        if len(line) >= MAX_LINE_BYTES:
            raise InputError(f"a line from {source} must have at most {MAX_LINE_BYTES} bytes")
        return None
    values = parse_line(line, source=source)
    payloads = {}
    for header in _headers(values, source=source):
        data = file.read(header.num_bytes)
        if len(data) < header.num_bytes:
            return None
        if hashlib.sha256(data).hexdigest() != header.sha256:
            raise InputError(f"{header.name} from {source} must have the SHA-256 that is stated with it")
        payloads[header.name] = data
    return Message({name: value for name, value in values.items() if name != "payloads"}, payloads)


def parse_line(line: bytes, *, source: str) -> dict[str, Any]:
    """Parse a line.

    Raises:
        InputError: It is no table of JSON.
    """
    try:
        values = parse_json(line.decode("utf-8"), source=f"a line from {source}")
    except UnicodeDecodeError as error:
        raise InputError(f"a line from {source} must be text", got=shown(line[:40].hex())) from error
    if not isinstance(values, dict):
        raise InputError(f"a line from {source} must be a table of named values", got=shown(values))
    return values


def _headers(values: Mapping[str, Any], *, source: str) -> list[PayloadHeader]:
    given = values.get("payloads", [])
    if not isinstance(given, list) or len(given) > _MAX_PAYLOADS:
        raise InputError(f"a line from {source} must have at most {_MAX_PAYLOADS} payloads", got=shown(given))
    return [from_mapping(PayloadHeader, header, where=f"a line from {source}: payload") for header in given]
