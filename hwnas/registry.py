"""Registries: the only way in which a name given by a user becomes an object."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from hwnas.errors import InputError, unknown
from hwnas.files import require_file_name

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """An ordered collection of named objects of one kind.

    Look-ups ignore letter case; listings show names as they were registered.

    Args:
        kind: What the entries are, as error messages call them.
        items: Names and objects to register.
        hint: Hint of the error for an unknown name, with a placeholder for the nearest name.
        check: Raises an error for a name and an object that must not be registered.
    """

    def __init__(
        self,
        kind: str,
        items: Iterable[tuple[str, Entry]] = (),
        *,
        hint: str = "{}",
        check: Callable[[str, Entry], None] | None = None,
    ) -> None:
        self.kind = kind
        self._hint = hint
        self._check = check
        self._entries: dict[str, Entry] = {}
        self._names: dict[str, str] = {}
        self._made_entries: dict[str, Entry] = {}
        """Objects of makers by listed name; listings leave them out, as they do not depend on what was asked for."""
        self._makers: list[tuple[tuple[str, ...], Callable[[str], tuple[str, Entry]]]] = []
        for name, entry in items:
            self.add(name, entry)

    def add(self, name: str, entry: Entry, *, aliases: Iterable[str] = ()) -> None:
        """Register an object.

        Args:
            name: Name to list it under.
            entry: The object.
            aliases: Further names to find it by.

        Raises:
            ValueError: A name or alias is already registered.
            InputError: The registry does not take such a name or object.
        """
        if self._check is not None:
            self._check(name, entry)
        spellings = [spelling.casefold() for spelling in (name, *aliases)]
        for index, spelling in enumerate(spellings):
            if spelling in self._names or spelling in spellings[:index]:
                raise ValueError(f"{self.kind} {spelling!r} is registered twice")
        self._entries[name] = entry
        self._names.update(dict.fromkeys(spellings, name))

    def add_maker(self, prefixes: tuple[str, ...], make: Callable[[str], tuple[str, Entry]]) -> None:
        """Make objects whose names have a prefix when they are first asked for.

        Args:
            prefixes: Beginnings of names, in lower case.
            make: Returns the listed name and the object for such a name; raises an error if there is none.
        """
        self._makers.append((prefixes, make))

    def get(self, name: str) -> Entry:
        """Return the object with a name or alias; raise UnknownNameError if there is none."""
        listed = self.resolve(name)
        return self._entries[listed] if listed in self._entries else self._made_entries[listed]

    def resolve(self, name: str) -> str:
        """Return the listed name for a name or alias; raise UnknownNameError if there is none."""
        listed = self._names.get(name.casefold()) if isinstance(name, str) else None
        if listed is None:
            listed = self._made(name)
        if listed is None:
            raise unknown(self.kind, name, self._entries, hint=self._hint)
        return listed

    def names(self) -> tuple[str, ...]:
        """Return the names in the order of registration."""
        return tuple(self._entries)

    def values(self) -> tuple[Entry, ...]:
        """Return the objects in the order of registration."""
        return tuple(self._entries.values())

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name.casefold() in self._names or self._maker(name) is not None)

    def lists(self, name: str) -> bool:
        """Return True if an object was registered with a name or alias; one that a maker could make was not."""
        return self._names.get(name.casefold()) in self._entries

    def _maker(self, name: str) -> Callable[[str], tuple[str, Entry]] | None:
        return next((make for prefixes, make in self._makers if name.casefold().startswith(prefixes)), None)

    def _made(self, name: object) -> str | None:
        """Make and register the object of a name that has the prefix of a maker; return its listed name."""
        make = self._maker(name) if isinstance(name, str) else None
        if make is None:
            return None
        assert isinstance(name, str)
        listed, entry = make(name)
        if self._check is not None:
            self._check(listed, entry)
        self._made_entries.setdefault(listed, entry)
        for spelling in (name.casefold(), listed.casefold()):
            self._names.setdefault(spelling, listed)
        return listed


def require_named(kind: str, cls: type) -> Callable[[str, Any], None]:
    """Return a check that objects are of a class and have the name that they are registered with.

    Such names become parts of paths, so they may have letters, digits and `-_.` only.
    """

    def check(name: str, entry: Any) -> None:
        require_file_name(name, what=f"the name of a {kind}")
        if not isinstance(entry, cls):
            raise InputError(f"{kind} {name} must be a {cls.__name__}", got=type(entry).__name__)
        own = getattr(entry, "name", None)
        if own != name:
            raise InputError(f"{kind} {name} must be registered with its own name", got=ascii(own)[:200])

    return check
