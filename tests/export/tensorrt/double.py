"""A module that has what a list of TensorRT's bindings has, and nothing else.

Reading or setting a name that the list lacks, a call that fits none of the listed signatures, and making an object of a
class without a constructor fail as in the bindings. What is listed does what `behaviour.py` says; the rest says
that the double does not do it.
"""

from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from tests.export.tensorrt import building, running
from tests.export.tensorrt.api_list import RTX_VERSION, ApiClass, ApiList, Property, Signature, read_list
from tests.export.tensorrt.behaviour import Library

BODIES_IN = (building, running)
"""Imported for what they register."""

_ROWS = ("Sequence", "list", "List")


class EnumBase:
    """An enum as pybind11 makes it: equal only to itself, a whole number only when asked."""

    __members__: dict[str, Any]

    def __init__(self, value: int) -> None:
        if value not in [member.value for member in self.__members__.values()]:
            raise ValueError(f"{value} is not a valid {type(self).__name__}")
        self.value = value
        self.name = next(name for name, member in self.__members__.items() if member.value == value)

    def __int__(self) -> int:
        return self.value

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.value == self.value

    def __hash__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self.value}>"


class ObjectBase:
    """An object of the library; its state is what the library keeps of it, out of reach."""

    _state: dict[str, Any]


def make_double(version: str) -> tuple[ModuleType, Library]:
    """A module of that version, and the state behind it."""
    is_rtx = version == RTX_VERSION
    library = Library(major=int(version.partition(".")[0]), compute_capability="8.9" if is_rtx else "9.0")
    return make_module(read_list(version), library, module_name="tensorrt_rtx" if is_rtx else "tensorrt"), library


def make_module(api: ApiList, library: Any, *, module_name: str = "tensorrt") -> ModuleType:
    """The double; `library` answers the calls and gets the module in `library.trt`."""
    module = ModuleType(module_name)
    module.__spec__ = ModuleSpec(module_name, None)
    module.__version__ = api.version  # type: ignore[attr-defined]
    classes: dict[str, type] = {}
    for name in sorted(api.classes, key=lambda name: _depth(name, api)):
        entry = api.classes[name]
        classes[name] = _enum(entry, library) if entry.members else _class(entry, classes, library)
        _place(module, classes, name, classes[name])
    for name, entry in api.classes.items():
        for alias, target in entry.aliases.items():
            setattr(classes[name], alias, _reached(module, target))
    for name, target in api.values.items():
        setattr(module, name, _reached(module, target))
    for name, found in api.functions.items():
        setattr(module, name, _function(name, found, classes, library))
    library.trt, library.classes = module, classes
    return module


def _depth(name: str, api: ApiList) -> int:
    """How many bases and owners must exist before a class."""
    base = api.classes[name].base if name in api.classes else None
    owner = name.rpartition(".")[0]
    return 1 + max(_depth(item, api) if item else 0 for item in (base, owner))


def _place(module: ModuleType, classes: dict[str, type], name: str, item: object) -> None:
    owner, _, last = name.rpartition(".")
    setattr(classes[owner] if owner else module, last, item)


def _reached(module: ModuleType, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _enum(entry: ApiClass, library: Any) -> type:
    cls = type(entry.name.rpartition(".")[2], (EnumBase,), {"__members__": {}, "__hash__": EnumBase.__hash__})
    for name, value in entry.members.items():
        member: Any = object.__new__(cls)
        member.name, member.value = name, value
        cls.__members__[name] = member  # type: ignore[attr-defined]
        setattr(cls, name, member)
    for name in entry.properties:
        setattr(cls, name, _property(entry.name, name, entry.properties[name], {}, library))
    return cls


def _class(entry: ApiClass, classes: dict[str, type], library: Any) -> type:
    base = classes.get(entry.base or "", ObjectBase)
    body: dict[str, Any] = {"__module__": "tensorrt.tensorrt", "__setattr__": _guarded_set}
    for name, found in entry.methods.items():
        if name != "__init__":
            body[name] = _method(entry.name, name, found, classes, library)
    for name, item in entry.properties.items():
        body[name] = _property(entry.name, name, item, classes, library)
    body["__init__"] = _constructor(entry, classes, library)
    if library.body(entry.name, "__bytes__"):  # the bindings offer a buffer, which a class in Python 3.11 cannot
        body["__bytes__"] = lambda this: library.body(entry.name, "__bytes__")(this)
    cls = type(entry.name, (base,), body)
    cls._of_the_double = cls  # type: ignore[attr-defined]
    return cls


def _guarded_set(this: Any, name: str, value: object) -> None:
    """Objects of the bindings take no other attributes; those of a subclass written in Python do."""
    own = type(this).__dict__.get("_of_the_double") is not type(this)
    if not own and not isinstance(getattr(type(this), name, None), property):
        raise AttributeError(f"'{type(this).__name__}' object has no attribute '{name}'")
    object.__setattr__(this, name, value)


def _constructor(entry: ApiClass, classes: dict[str, type], library: Any) -> Callable[..., None]:
    found = entry.methods.get("__init__")

    def init(this: Any, *args: Any, **kwargs: Any) -> None:
        if found is None:
            raise TypeError(f"tensorrt.tensorrt.{entry.name}: No constructor defined!")
        values = bind(f"{entry.name}.__init__", found, args, kwargs, classes)
        object.__setattr__(this, "_state", {})
        _body(library, entry.name, "__init__")(this, *values)

    return init


def _method(owner: str, name: str, found: list[Signature], classes: dict[str, type], library: Any) -> Any:
    def method(this: Any, *args: Any, **kwargs: Any) -> Any:
        values = bind(f"{owner}.{name}", found, args, kwargs, classes)
        return _body(library, owner, name)(this, *values)

    return method


def _function(name: str, found: list[Signature], classes: dict[str, type], library: Any) -> Any:
    def function(*args: Any, **kwargs: Any) -> Any:
        return _body(library, "", name)(*bind(name, found, args, kwargs, classes))

    return function


def _property(owner: str, name: str, item: Property, classes: dict[str, type], library: Any) -> property:
    def get(this: Any) -> Any:
        if not item.can_get:
            raise AttributeError(f"unreadable attribute '{name}' of {owner}")
        if name in getattr(this, "_state", ()):
            return this._state[name]
        return _body(library, owner, f"get_{name}")(this)

    def set_(this: Any, value: Any) -> None:
        if not item.can_set:
            raise AttributeError(f"property '{name}' of '{owner}' object has no setter")
        if not fits(item.kind, value, classes):
            raise TypeError(f"(): incompatible function arguments: {owner}.{name} is {item.kind}, got {value!r}")
        setter = library.body(owner, f"set_{name}")
        if setter is not None:
            setter(this, value)
        else:
            this._state[name] = value

    return property(get, set_)


def _body(library: Any, owner: str, name: str) -> Callable[..., Any]:
    body: Callable[..., Any] | None = library.body(owner, name)
    if body is None:
        raise NotImplementedError(f"the double does not do {owner}.{name}")
    return body


def bind(
    name: str, found: list[Signature], args: Sequence[Any], kwargs: dict[str, Any], classes: dict[str, type]
) -> tuple[Any, ...]:
    """The arguments in the order of the first signature that takes them."""
    for signature in found:
        if signature is None:
            return tuple(args)
        names = [parameter.name for parameter in signature]
        given = dict(zip(names, args, strict=False)) | kwargs
        if len(args) > len(names) or len(given) < len(args) + len(kwargs) or set(given) - set(names):
            continue
        if any(parameter.name not in given and not parameter.optional for parameter in signature):
            continue
        if all(fits(item.kind, given[item.name], classes) for item in signature if item.name in given):
            return tuple(given[item.name] for item in signature if item.name in given)
    supported = "\n".join(f"    {number}. {name}{one}" for number, one in enumerate(found, start=1))
    raise TypeError(
        f"{name}(): incompatible function arguments. Supported:\n{supported}\nInvoked with: {args}, {kwargs}"
    )


def fits(kind: str, value: object, classes: dict[str, type]) -> bool:
    """Whether a value is of the type of a parameter; None is refused where the bindings would follow a null pointer."""
    outer = kind.partition("[")[0]
    if kind == "Dims" and isinstance(value, (tuple, list)):
        return all(fits("int", item, classes) for item in value)
    if kind in classes:
        return isinstance(value, classes[kind]) and (isinstance(value, EnumBase) or hasattr(value, "_state"))
    if outer in _ROWS:
        inner = kind.partition("[")[2][:-1]
        return isinstance(value, (tuple, list)) and all(fits(inner, item, classes) for item in value)
    return outer in _PLAIN and _PLAIN[outer](value)


def _whole(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, float)


_PLAIN: dict[str, Callable[[object], bool]] = {
    "Buffer": lambda value: isinstance(value, (bytes, bytearray, memoryview)),
    "SupportsFloat": lambda value: hasattr(value, "__float__"),
    "SupportsInt": _whole,
    "bool": lambda value: isinstance(value, bool),
    "buffer": lambda value: isinstance(value, (bytes, bytearray, memoryview)),
    "float": lambda value: hasattr(value, "__float__"),
    "int": _whole,
    "object": lambda value: True,
    "slice": lambda value: isinstance(value, slice),
    "str": lambda value: isinstance(value, str),
    "tuple": lambda value: isinstance(value, tuple),
}
