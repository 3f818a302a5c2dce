import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.devices import DEVICES
from hwnas.errors import InputError, UnknownNameError
from hwnas.metrics import RUNTIMES
from hwnas.registry import Registry
from hwnas.space import SPACES


@pytest.fixture
def devices() -> Registry[int]:
    registry: Registry[int] = Registry("device", hint="hwnas profile --device {}")
    registry.add("H200", 141, aliases=["nvidia-h200", "h200-sxm"])
    registry.add("A100", 80)
    return registry


def test_things_come_in_the_order_of_registration(devices: Registry[int]) -> None:
    assert devices.names() == ("H200", "A100")
    assert list(devices) == ["H200", "A100"]
    assert devices.values() == (141, 80)
    assert len(devices) == 2


def test_items_given_to_the_constructor_are_registered() -> None:
    registry = Registry("letter", [("b", 2), ("a", 1)])
    assert registry.names() == ("b", "a")
    assert registry.get("a") == 1


@pytest.mark.parametrize("name", ["H200", "h200", "NVIDIA-H200", "h200-sxm"])
def test_names_and_aliases_are_found_in_any_case(devices: Registry[int], name: str) -> None:
    assert devices.get(name) == 141
    assert devices.resolve(name) == "H200"
    assert name in devices


@pytest.mark.parametrize("name", ["h100", "", "h200 ", 200, None])
def test_what_was_not_registered_is_not_in_it(devices: Registry[int], name: object) -> None:
    assert name not in devices


def test_a_miss_lists_the_choices_and_the_nearest(devices: Registry[int]) -> None:
    with pytest.raises(UnknownNameError) as caught:
        devices.get("a10")
    assert str(caught.value) == (
        "device 'a10' is not known\n  got     a10\n  known   H200, A100\n  try     hwnas profile --device A100"
    )


def test_a_miss_in_an_empty_registry_has_nothing_to_list() -> None:
    empty: Registry[int] = Registry("space")
    with pytest.raises(UnknownNameError) as caught:
        empty.get("a")
    assert str(caught.value) == "space 'a' is not known\n  got     a"


@pytest.mark.parametrize("name", ["H200", "h200", "Nvidia-H200"])
def test_a_duplicate_is_refused(devices: Registry[int], name: str) -> None:
    with pytest.raises(ValueError, match=rf"device '{name.casefold()}' is registered twice"):
        devices.add(name, 0)
    assert devices.get(name) == 141


def test_a_duplicate_alias_registers_nothing(devices: Registry[int]) -> None:
    with pytest.raises(ValueError, match="device 'a100' is registered twice"):
        devices.add("RTX-4090", 24, aliases=["4090", "A100"])
    assert devices.names() == ("H200", "A100")
    assert "4090" not in devices
    assert devices.get("A100") == 80


def test_duplicates_in_the_constructor_are_refused() -> None:
    with pytest.raises(ValueError, match="letter 'a' is registered twice"):
        Registry("letter", [("a", 1), ("A", 2)])


@given(st.dictionaries(st.text().map(str.casefold), st.integers()))
def test_what_is_registered_is_found(entries: dict[str, int]) -> None:
    registry = Registry("entry", entries.items())
    assert {name: registry.get(name) for name in registry.names()} == entries
    assert {name: registry.get(name.swapcase()) for name in entries if name.isascii()} == {
        name: entry for name, entry in entries.items() if name.isascii()
    }


@pytest.mark.parametrize("name", ["../evil", "", ".hidden", "a/b", "x" * 101, "a\0b", "ü"])
def test_names_that_become_paths_are_checked(name: str) -> None:
    with pytest.raises(InputError, match="must have 1 to 100 letters"):
        SPACES.add(name, SPACES.get("autoformer-micro"))
    with pytest.raises(InputError, match="must have 1 to 100 letters"):
        DEVICES.add(name, DEVICES.get("a100"))
    with pytest.raises(InputError, match="must have 1 to 100 letters"):
        RUNTIMES.add(name, "module:Class")


@pytest.mark.parametrize("entry", ["module:Class", None, DEVICES.get("a100")])
def test_only_a_space_with_its_own_name_is_registered(entry: object) -> None:
    with pytest.raises(InputError, match="space pocket must be"):
        SPACES.add("pocket", entry)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be registered with its own name"):
        SPACES.add("pocket", SPACES.get("autoformer-micro"))


@pytest.mark.parametrize("location", ["module", ":x", "module:", "module:a b", 3, None])
def test_a_runtime_is_registered_by_module_and_class(location: object) -> None:
    with pytest.raises(InputError, match="must be registered as MODULE:CLASS"):
        RUNTIMES.add("mine", location)  # type: ignore[arg-type]


def test_objects_of_a_maker_are_found_and_not_listed() -> None:
    numbers: Registry[int] = Registry("number", [("one", 1)])
    asked: list[str] = []

    def make(name: str) -> tuple[str, int]:
        asked.append(name)
        return f"made-{name.partition(':')[2]}", len(name)

    numbers.add_maker(("made:", "made-"), make)
    assert "made:x" in numbers
    assert numbers.get("Made:x") == numbers.get("made-x") == 6
    assert numbers.resolve("made:x") == "made-x"
    assert asked == ["Made:x"]
    assert list(numbers) == ["one"]
    assert len(numbers) == 1
    with pytest.raises(UnknownNameError):
        numbers.get("other:x")
