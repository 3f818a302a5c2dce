"""A profile that is appended to, killed, cut and opened again in any order keeps each row that was acknowledged."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hwnas.errors import InputError
from hwnas.records import Store, load_profile
from hwnas.records.measurement import to_line
from hwnas.records.profile import MEASUREMENTS
from tests.records.rows import MANIFEST, SESSION, failed, row


def release(store: Store) -> None:
    """Close the files of a store and nothing else, as the kernel does when its process ends."""
    os.close(store._file)
    store._file = -1
    store._lock.close()


class StoreMachine(RuleBasedStateMachine):
    """One profile, the process that may be writing it, and the rows that it must hold."""

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr("hwnas.records.store.os.fsync", lambda file: None)
        self._folder = tempfile.TemporaryDirectory(prefix="hwnas-store-")
        self.path = Path(self._folder.name) / "profile"
        self.store: Store | None = None
        self.expected: list[str] = []
        self.number = 0

    def teardown(self) -> None:
        if self.store is not None:
            self.store.close()
        self._folder.cleanup()
        self._patch.undo()

    @property
    def file(self) -> Path:
        return self.path / MEASUREMENTS

    @precondition(lambda self: self.store is None)
    @rule()
    def open(self) -> None:
        self.store = Store(self.path, manifest=MANIFEST, session=SESSION)
        assert [to_line(found) for found in self.store.profile.measurements] == self.expected

    @precondition(lambda self: self.store is not None)
    @rule(fails=st.booleans())
    def append(self, fails: bool) -> None:
        assert self.store is not None
        self.number += 1
        added = failed(self.number % 60) if fails else row(self.number % 60, ns=10**6 + self.number)
        self.store.append(added)
        self.expected.append(to_line(added))

    @precondition(lambda self: self.store is not None)
    @rule()
    def close(self) -> None:
        assert self.store is not None
        self.store.close()
        self.store = None

    @precondition(lambda self: self.store is not None)
    @rule()
    def kill(self) -> None:
        """The process ends without a word: the kernel releases its lock, and nothing is tidied up."""
        assert self.store is not None
        release(self.store)
        self.store = None

    @precondition(lambda self: self.store is not None)
    @rule(share=st.floats(0, 1) | st.just(0.99999))
    def kill_while_appending(self, share: float) -> None:
        """Any number of the bytes of a row reach the disk before the process ends."""
        before = self.file.stat().st_size
        self.append(False)
        self.kill()
        written = int(share * (self.file.stat().st_size - before))
        complete = before + written >= self.file.stat().st_size - 1  # a line that lacks its line break alone is whole
        os.truncate(self.file, before + written)
        if not complete:
            self.expected.pop()

    @precondition(lambda self: self.store is None and self.file.exists())
    @rule(count=st.integers(1, 30))
    def zeros_at_the_end(self, count: int) -> None:
        """A power failure may leave zeros in place of what was written last."""
        self._complete()
        with self.file.open("ab") as file:
            file.write(bytes(count))

    @precondition(lambda self: self.store is None and (self.path / "manifest.json").exists())
    @rule(data=st.binary(min_size=1, max_size=30))
    def foreign_bytes_at_the_end(self, data: bytes) -> None:
        """Append bytes that no campaign writes, which are refused and kept."""
        self._complete()
        before = self.file.read_bytes()
        self.file.write_bytes(before + b"no row " + data)
        with pytest.raises(InputError, match=r"measurements\.jsonl"):
            Store(self.path, manifest=MANIFEST, session=SESSION)
        assert self.file.read_bytes() == before + b"no row " + data
        self.file.write_bytes(before)

    @precondition(lambda self: self.store is not None)
    @rule()
    def second_writer(self) -> None:
        with pytest.raises(InputError, match="is being written by another") as caught:
            Store(self.path, manifest=MANIFEST, session=SESSION)
        assert f"process {os.getpid()} " in str(caught.value)

    @precondition(lambda self: self.store is None)
    @rule()
    def other_environment(self) -> None:
        if (self.path / "manifest.json").exists():
            before = self.file.read_bytes()
            other = replace(MANIFEST, environment={**MANIFEST.environment, "torch": "9"})
            with pytest.raises(InputError, match="another environment"):
                Store(self.path, manifest=other, session=SESSION)
            assert self.file.read_bytes() == before

    @invariant()
    def read_by_others(self) -> None:
        """A whole row that lacks its line break alone is read once a writer has completed it."""
        if (self.path / "manifest.json").exists():
            found = [to_line(row) for row in load_profile(self.path).measurements]
            whole = self.file.read_bytes()[-1:] in (b"", b"\n", b"\0")
            assert found == self.expected if whole else found in (self.expected, self.expected[:-1])

    def _complete(self) -> None:
        """Complete the file as the next writer does: the rest after the last line break is a whole row or nothing."""
        if self.file.read_bytes()[-1:] not in (b"", b"\n"):
            with Store(self.path, manifest=MANIFEST, session=SESSION):
                pass


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
