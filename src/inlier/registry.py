"""Tables of named things: a detector, backbone, perturbation or dataset is one line, imported when it is first used.

Other packages add lines through entry points: a registry of kind `detector` reads the group `inlier.detectors` when it
is first used. A plugin is one name and one factory; what a listing says of it comes from the factory, whose docstring's
first line is the summary and whose attribute `paper` is the paper. With `INLIER_PLUGINS=0` in the environment no
plugin is looked for.
"""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from inlier.errors import InlierError, Mismatch, Unavailable

__all__ = ["Entry", "Line", "Registry", "cites", "nearest"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """Where a factory is (`module:name`), what it makes in a few words, the paper it comes from and who provides it.

    Without a summary the factory says it and the paper itself.
    """

    target: str
    summary: str = ""
    paper: str = ""
    provider: str = "inlier"


@dataclass(frozen=True)
class Line:
    """What a listing says of a name; `problem` tells why it cannot be used, and is empty if it can."""

    name: str
    summary: str
    provider: str
    paper: str
    problem: str = ""


class Registry(Generic[T]):
    """Factories of one kind by name: inlier's own, and those of the entry points in the group `inlier.<kind>s`.

    A plugin that clashes or does not load spoils its own name and no other.

    Raises:
        LookupError: on look-up of an unknown name; the message names the nearest known one.
        Mismatch: on look-up of a name that two packages claim; the message names both.
        Unavailable: on look-up of a name whose factory cannot be imported; the message says why.
        ValueError: a name is added twice.
    """

    def __init__(self, kind: str, entries: Mapping[str, Entry]) -> None:
        self.kind = kind
        self.group = f"inlier.{kind}s"
        self._own = dict(entries)

    @cached_property
    def _claims(self) -> dict[str, tuple[Entry, ...]]:
        """Who claims each name. Not asked for when inlier is imported: reading every package's entry points is slow."""
        claims: dict[str, tuple[Entry, ...]] = {name: (entry,) for name, entry in self._own.items()}
        for name, entry in plugins(self.group):
            claims[name] = (*claims.get(name, ()), entry)
        return claims

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._claims))

    def __contains__(self, name: str) -> bool:
        return name in self._claims

    def entry(self, name: str) -> Entry:
        """The line of the table."""
        if name not in self._claims:
            raise LookupError(f"No {self.kind} named '{name}'. {nearest(name, self)}")
        entry, *others = self._claims[name]
        if others:
            claimants = " and ".join(f"{claim.provider} ({claim.target})" for claim in (entry, *others))
            raise Mismatch(
                f"The {self.kind} '{name}' is claimed by {claimants}. Uninstall or rename one of them, or set "
                "INLIER_PLUGINS=0 to have inlier's own alone."
            )
        return entry

    def __getitem__(self, name: str) -> T:
        entry = self.entry(name)
        problem = f"The {self.kind} '{name}' of {entry.provider} ({entry.target}) cannot be used: "
        if not name.isidentifier():
            raise Unavailable(f"{problem}a name has letters, digits and underscores alone. Rename its entry point.")
        module, _, attribute = entry.target.partition(":")
        try:
            factory: Any = reduce(getattr, attribute.split("."), import_module(module))
        except InlierError:
            raise  # says itself what is missing
        except (Exception, SystemExit) as error:  # a plugin's module may do anything when it is imported
            remedy = "Install inlier anew" if entry.provider == "inlier" else f"Repair or uninstall {entry.provider}"
            raise Unavailable(f"{problem}{type(error).__name__}: {error}. {remedy}.") from error
        if not callable(factory):
            raise Unavailable(f"{problem}{type(factory).__name__} is no factory. Name a function or a class.")
        return factory  # type: ignore[no-any-return]

    def lines(self) -> Iterator[Line]:
        """What a listing says: a line for each claim to a name. Plugins are imported for it, inlier's own are not."""
        for name in self:
            for claim in self._claims[name]:
                try:
                    summary, paper = self._told(name, self.entry(name))
                except InlierError as error:
                    yield Line(name, claim.summary, claim.provider, claim.paper, str(error))
                else:
                    yield Line(name, summary, claim.provider, paper)

    def _told(self, name: str, entry: Entry) -> tuple[str, str]:
        if entry.summary:
            return entry.summary, entry.paper
        factory = self[name]
        first = inspect.cleandoc(factory.__doc__ or "").partition("\n")[0]
        return first.removesuffix("."), str(getattr(factory, "paper", ""))

    def add(self, name: str, entry: Entry) -> None:
        """Add a line; a name that is taken is refused."""
        if name in self._claims:
            raise ValueError(f"There is a {self.kind} named '{name}' already: {self._claims[name][0].target}")
        self._claims[name] = (entry,)


def plugins(group: str) -> Iterator[tuple[str, Entry]]:
    """What other packages add to a registry: name and entry, nothing imported."""
    if os.environ.get("INLIER_PLUGINS") == "0":
        return
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        provider = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown package"
        yield point.name, Entry(point.value.partition("[")[0].strip(), provider=provider)  # less the extras it names


def cites(paper: str) -> Callable[[F], F]:
    """Say which paper a factory comes from, for `inlier detectors` and the like.

    >>> @cites("Sun et al. 2022")
    ... def neighbours(anatomy):
    ...     "Distance to the k-th nearest clean image."
    >>> neighbours.paper
    'Sun et al. 2022'
    """

    def cite(factory: F) -> F:
        factory.paper = paper  # type: ignore[attr-defined]
        return factory

    return cite


def nearest(name: str, known: Iterator[str] | Registry[Any] | list[str]) -> str:
    """`Did you mean 'x'?`, or the list of what there is."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(options)}."
