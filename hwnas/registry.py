"""Names to things: the one way in which a name from outside becomes an object."""

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from hwnas.errors import unknown

Thing = TypeVar("Thing")


class Registry(Generic[Thing]):
    """An ordered set of named things of one kind.

    A duplicate is refused; a name that is not there is answered with the choices and the nearest one.
    Letter case does not matter when a thing is looked up, and does when it is listed.
    """

    def __init__(self, kind: str, items: Iterable[tuple[str, Thing]] = (), *, hint: str = "{}") -> None:
        self.kind = kind
        self._hint = hint
        self._things: dict[str, Thing] = {}
        self._names: dict[str, str] = {}
        for name, thing in items:
            self.add(name, thing)

    def add(self, name: str, thing: Thing, *, aliases: Iterable[str] = ()) -> None:
        """Register `thing` as `name`, and let it be found by its `aliases` too."""
        spellings = [spelling.casefold() for spelling in (name, *aliases)]
        for index, spelling in enumerate(spellings):
            if spelling in self._names or spelling in spellings[:index]:
                raise ValueError(f"{self.kind} {spelling!r} is registered twice")
        self._things[name] = thing
        self._names.update(dict.fromkeys(spellings, name))

    def get(self, name: str) -> Thing:
        """The thing of that name or alias."""
        return self._things[self.resolve(name)]

    def resolve(self, name: str) -> str:
        """The listed name behind a name or an alias."""
        found = self._names.get(name.casefold())
        if found is None:
            raise unknown(self.kind, name, self._things, hint=self._hint)
        return found

    def names(self) -> tuple[str, ...]:
        """The names, in the order in which they were registered."""
        return tuple(self._things)

    def things(self) -> tuple[Thing, ...]:
        """The things themselves, in the same order."""
        return tuple(self._things.values())

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.casefold() in self._names
