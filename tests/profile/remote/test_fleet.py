from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.profile.remote.fleet import FLEET_COLUMNS, FleetHost, FleetRow, fleet_cells, load_fleet

ONE = '[[hosts]]\naddress = "one"\n'


def test_a_fleet_file_names_hosts_and_what_they_measure(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    second = '[[hosts]]\naddress = "ann@two"\nruntimes = ["onnxruntime", "openvino"]\ndevices = ["cpu"]\n'
    path.write_text(
        f"give_up_minutes = 2\n{ONE}{second}python = '/opt/python3'\nlimit_minutes = 5\nagent = 'installed'\n"
    )
    fleet = load_fleet(path)
    assert fleet.limits.give_up_s == 120
    assert fleet.hosts[0] == FleetHost(address="one")
    two = fleet.hosts[1]
    assert (two.devices, two.runtimes, two.limit_minutes) == (("cpu",), ("onnxruntime", "openvino"), 5)
    assert (two.host.address, two.host.python, two.host.agent) == ("ann@two", "/opt/python3", "installed")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hosts = []", "a fleet must have hosts"),
        (ONE + ONE, "each of them once"),
        ("[[hosts]]\nadress = 'one'", "key 'adress' is not known"),
        ("[[hosts]]\naddress = '-oProxyCommand=x'", "must be named as ssh names it"),
        (ONE + "limit_minutes = -1", "limit_minutes must be greater than 0"),
        (ONE + "devices = []", "must have devices and runtimes"),
        (ONE + "devices = ['../x']", "devices"),
        (ONE + "agent = 'x'", "agent must be 'sent' or 'installed'"),
        ("give_up_minutes = inf\n" + ONE, "give_up_minutes must be"),
        ("[[hosts]]\naddress = 'one", "is not TOML"),
    ],
)
def test_a_wrong_fleet_file_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=problem) as caught:
        load_fleet(path)
    assert caught.value.message.startswith(str(path))


def test_a_row_of_the_table_says_who_does_what() -> None:
    row = FleetRow(host="one", device="t4", runtime="tensorrt", num_measured=3, num_failed=1, state="measures")
    assert dict(zip(FLEET_COLUMNS, fleet_cells([row])[0], strict=True)) == {
        "host": "one",
        "device": "t4",
        "runtime": "tensorrt",
        "measured": 3,
        "failed": 1,
        "state": "measures",
    }
