"""Tables of named things: a detector, backbone, perturbation or recipe is one line, imported when it is first used."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

__all__ = ["Entry", "Registry", "nearest"]

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """Where a factory is (`module:name`), what it makes in a few words, and the paper it comes from."""

    target: str
    summary: str
    paper: str = ""


class Registry(Generic[T]):
    """Factories of one kind by name.

    Raises:
        LookupError: on look-up of an unknown name; the message names the nearest known one.
        ValueError: a name is added twice.
    """

    def __init__(self, kind: str, entries: Mapping[str, Entry]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def entry(self, name: str) -> Entry:
        """The line of the table."""
        if name not in self._entries:
            raise LookupError(f"No {self.kind} named '{name}'. {nearest(name, self)}")
        return self._entries[name]

    def __getitem__(self, name: str) -> T:
        module, _, attribute = self.entry(name).target.partition(":")
        factory: Any = getattr(import_module(module), attribute)
        return factory  # type: ignore[no-any-return]

    def add(self, name: str, entry: Entry) -> None:
        """Add a line; a name that is taken is refused."""
        if name in self._entries:
            raise ValueError(f"There is a {self.kind} named '{name}' already: {self._entries[name].target}")
        self._entries[name] = entry


def nearest(name: str, known: Iterator[str] | Registry[Any] | list[str]) -> str:
    """`Did you mean 'x'?`, or the list of what there is."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(options)}."
