"""Lines of JSON and the bytes that follow them."""

import io
import json

import pytest

from hwnas.errors import InputError
from hwnas.profile.remote import protocol
from hwnas.profile.remote.protocol import Message, read_message, write_message


def read(data: bytes) -> Message | None:
    return read_message(io.BytesIO(data), source="nano1")


def written(payloads: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    write_message(file, {"measure": [1, "ä"]}, payloads)
    return file.getvalue()


def test_a_message_arrives_with_its_payloads() -> None:
    payloads = {"graph": bytes(range(256)) * 9, "nothing": b"", "lines": b"\n\n{}\n"}
    assert read(written(payloads)) == Message({"measure": [1, "ä"]}, payloads)
    assert read(written({})) == Message({"measure": [1, "ä"]})


def test_a_message_that_is_cut_off_is_the_end_of_the_stream() -> None:
    data = written({"graph": b"12345"})
    assert all(read(data[:size]) is None for size in range(len(data)))


def test_what_does_not_have_the_stated_digest_is_refused() -> None:
    with pytest.raises(InputError, match="graph from nano1 must have the SHA-256"):
        read(written({"graph": b"12345"}).replace(b"12345", b"12346"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"[1]\n", "must be a table"),
        (b"\xff\n", "must be text"),
        (b"{\n", "is not JSON"),
        (b'{"payloads":3}\n', "at most 16 payloads"),
        (json.dumps({"payloads": [{}] * 17}).encode() + b"\n", "at most 16 payloads"),
        (b'{"payloads":[{"name":"x","num_bytes":-1,"sha256":"0"}]}\n', "must be between 0 and"),
        (b'{"payloads":[{"name":"x","num_bytes":99999999999,"sha256":"0"}]}\n', "must be between 0 and"),
    ],
)
def test_what_is_no_message_is_refused(line: bytes, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read(line)


def test_a_line_without_an_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_LINE_BYTES", 100)
    with pytest.raises(InputError, match="at most 100 bytes"):
        read(b"x" * 200)
