import json
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.records import environment_id
from hwnas.records.manifest import MANIFEST, read_manifest, torch_version, write_manifest
from tests.records.rows import ENVIRONMENT, SESSION, manifest


def test_a_manifest_is_read_back(tmp_path: Path) -> None:
    whole = replace(manifest(), sessions=(SESSION,))
    write_manifest(tmp_path, whole)
    assert read_manifest(tmp_path) == whole


def test_an_environment_has_one_id_whatever_its_order() -> None:
    turned = dict(reversed(ENVIRONMENT.items()))
    assert environment_id(turned) == environment_id(ENVIRONMENT) == manifest().environment_id
    assert environment_id({**ENVIRONMENT, "torch": "2.16.0"}) != environment_id(ENVIRONMENT)
    assert len(environment_id(ENVIRONMENT)) == 16


def test_versions_of_torch_are_in_the_order_of_their_numbers() -> None:
    names = ["2.9", "2.9.1", "2.10.0.dev20250901+cu128", "2.10.0+cpu", "2.15.0+cu132"]
    versions = [torch_version({"torch": name}) for name in names]
    assert versions == [(2, 9), (2, 9, 1), (2, 10, 0), (2, 10, 0), (2, 15, 0)]
    assert versions == sorted(versions)
    assert torch_version({}) == torch_version({"torch": "unknown"}) == ()
    assert torch_version({}) < versions[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "hwnas.profile/9"}, "has an unsupported schema"),
        ({"colour": "red"}, "key 'colour' is not known"),
        ({"environment": {"torch": 2}}, "environment.torch must be a text"),
        ({"environment": None}, "environment must be a table"),
        ({"reference": 3}, "reference must be a table"),
        ({"setting": {"deployment": {"device": "x"}}}, "setting: a measurement must specify runtime"),
    ],
)
def test_a_wrong_manifest_is_an_error(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_manifest(tmp_path, manifest())
    data = json.loads((tmp_path / MANIFEST).read_text()) | change
    (tmp_path / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)
