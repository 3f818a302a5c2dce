import sys
import types
from pathlib import Path
from typing import Any

import pytest

from hwnas.errors import InputError, MissingError
from hwnas.pipeline.export_network import export_network
from hwnas.pipeline.push import push_network
from hwnas.space import SPACES
from hwnas.supernet.families import make_network
from hwnas.supernet.store import save_network

FILES = ("README.md", "config.json", "model.safetensors", "vitas_micro.py")


class StandIn:
    """The part of huggingface_hub's HfApi that is used."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.calls = error, list[tuple[str, dict[str, Any]]]()

    def __call__(self, *, library_name: str) -> "StandIn":
        assert library_name == "hwnas"
        return self

    def create_repo(self, **options: Any) -> str:
        self.calls.append(("create_repo", options))
        return f"https://hub.test/{options['repo_id']}"

    def upload_folder(self, **options: Any) -> None:
        if self.error is not None:
            raise self.error
        folder, patterns = Path(options.pop("folder_path")), options["allow_patterns"]
        names = sorted(file.name for file in folder.iterdir() if file.name in patterns)
        self.calls.append(("upload_folder", {**options, "names": names}))


def put_in_place(monkeypatch: pytest.MonkeyPatch, hub: StandIn) -> StandIn:
    module = types.ModuleType("huggingface_hub")
    module.HfApi = hub  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.timm").mkdir()
    for name in FILES:
        (tmp_path / "net.timm" / name).write_text("{}")
    return tmp_path / "net.timm"


def test_a_folder_is_uploaded_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = put_in_place(monkeypatch, StandIn())
    (folder / "__pycache__").mkdir()
    pushed = push_network(folder, "me/net", private=True)
    assert (pushed.url, pushed.files) == ("https://hub.test/me/net", FILES)
    assert hub.calls[0] == ("create_repo", {"repo_id": "me/net", "private": True, "exist_ok": True})
    assert (hub.calls[1][1]["repo_id"], hub.calls[1][1]["names"]) == ("me/net", sorted(FILES))
    with pytest.raises(InputError, match="holds one network"):
        push_network(folder, "me/net", arch="min")


def test_a_network_of_a_run_is_exported_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = put_in_place(monkeypatch, StandIn())
    monkeypatch.setattr("hwnas.pipeline.export_network.names_run", lambda name: True)
    space = SPACES.get("vitas-micro")
    arch = space.smallest()
    weights = tmp_path / "network.safetensors"
    save_network(make_network(space, arch), weights, space=space, arch=arch)
    exported = export_network

    def export(run: str, name: str | None, **options: Any) -> Any:
        assert (run, name) == (str(tmp_path), "min")
        monkeypatch.undo()
        put_in_place(monkeypatch, hub)
        return exported("vitas-micro", name, weights=weights, **options)

    monkeypatch.setattr("hwnas.pipeline.export_network.export_network", export)
    pushed = push_network(tmp_path, "me/net", arch="min")
    (code,) = [name for name in pushed.files if name.endswith(".py")]
    assert code.startswith("vitas_micro_")
    assert {*pushed.files} == {"README.md", "config.json", "model.safetensors", code}


def test_what_the_hub_refuses_is_an_error_of_the_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(monkeypatch, StandIn(OSError("401: who are you?\nmore lines")))
    with pytest.raises(InputError, match="can be written") as caught:
        push_network(folder, "me/net")
    assert caught.value.got == "401: who are you?"


def test_without_the_library_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingError) as caught:
        push_network(folder, "me/net")
    assert caught.value.hint == "pip install 'hwnas[hub]'"
