import subprocess
import sys
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.records import Store, load_profile
from hwnas.records.profile import MEASUREMENTS
from tests.records.rows import MANIFEST, SESSION, failed, row


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Store(tmp_path / "p", manifest=MANIFEST, session=SESSION) as store:
        for measurement in (row(0), failed(1), row(2), failed(3), row(3), row(0, process_id="b")):
            store.append(measurement)
    return tmp_path / "p"


def test_a_profile_knows_what_was_measured_and_what_could_not_be(folder: Path) -> None:
    profile = load_profile(folder)
    assert len(profile.measurements) == 6
    assert [item.subject.network_id[-1] for item in profile.measured] == ["0", "2", "3", "0"]
    assert [item.subject.network_id[-1] for item in profile.failures] == ["1"]  # 3 was measured later
    assert profile.counts == {row(0).subject.network_id: 2, row(2).subject.network_id: 1, row(3).subject.network_id: 1}
    assert profile.manifest.sessions == (SESSION,)


def test_a_torn_last_line_is_left_out_and_noted_and_the_file_stays(folder: Path) -> None:
    path = folder / MEASUREMENTS
    with path.open("ab") as file:
        file.write(b'{"schema":"hwn')
    before = path.read_bytes()
    profile = load_profile(folder)
    assert len(profile.measurements) == 6
    assert profile.notes == (f"the last line of {path} is incomplete and was ignored",)
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", [b'{"schema":"hwn', b"", b"\xff\xfe", b"[1]"])
def test_a_bad_line_in_the_middle_is_an_error_that_names_it(folder: Path, line: bytes) -> None:
    path = folder / MEASUREMENTS
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], line, *lines[3:]]))
    with pytest.raises(InputError, match=r"measurements\.jsonl, line 3"):
        load_profile(folder)


def test_a_row_of_another_environment_is_an_error(folder: Path) -> None:
    path = folder / MEASUREMENTS
    path.write_text(path.read_text().replace(MANIFEST.environment_id, "0" * 16, 1))
    with pytest.raises(InputError, match=r"line 1 must be of the environment in manifest\.json"):
        load_profile(folder)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_is_no_profile_is_an_error(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "x"
    if there:
        folder.mkdir()
    with pytest.raises(InputError, match="must be the folder of a profile") as caught:
        load_profile(folder)
    assert caught.value.got == ("it has no manifest.json" if there else "it does not exist")


def test_reading_profiles_loads_nothing_heavy() -> None:
    code = "import sys, hwnas.records; print(*{'numpy', 'torch', 'onnx', 'sklearn'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == []
