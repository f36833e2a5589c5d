"""Settings from tables: a TOML table is the `name` of a registered factory and keyword arguments for it.

There is no second schema: what may be in a table is what the factory's signature has, and what is left out has the
signature's default. `used` says what all settings came to, to be written beside a result.
"""

from __future__ import annotations

import ast
import inspect
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from inlier.registry import Registry, nearest

__all__ = ["call_text", "from_keywords", "from_table", "read_call", "read_toml", "used"]

T = TypeVar("T")


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TOML; the message has the line.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"No file '{file}'. Expected a TOML file.")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"'{file}' is no TOML file: {error}") from error


def from_table(registry: Registry[Callable[..., T]], table: Mapping[str, Any], *given: Any) -> T:
    """What the factory called `name` makes of the other settings in the table; arrays come to it as tuples.

    Args:
        registry: of the factories.
        table: `name` and keyword arguments.
        given: the factory's first arguments, which no table has.

    Raises:
        ValueError: no name, an unknown setting, or one that is needed and not there.
        LookupError: no such name.

    Example:
        >>> from inlier.perturbations.table import PERTURBATIONS
        >>> from_table(PERTURBATIONS, {"name": "fog", "severity": 2}).severity
        2
        >>> from_table(PERTURBATIONS, {"name": "fog", "severty": 2})
        Traceback (most recent call last):
        ValueError: perturbation 'fog' has no setting 'severty'. Did you mean 'severity'?
    """
    factory, told, settings = split(registry, table)
    check(factory, settings, told, len(given))
    return factory(*given, **settings)


def from_keywords(factory: Callable[..., T], table: Mapping[str, Any], told: str) -> T:
    """`from_table` for a factory that is known already; `told` is what errors call it."""
    settings = frozen(table)
    check(factory, settings, told, 0)
    return factory(**settings)


def used(registry: Registry[Callable[..., Any]], table: Mapping[str, Any], given: int = 0) -> dict[str, Any]:
    """`name` and every setting that the factory is called with, defaults included.

    `given` is how many of its first arguments come from elsewhere.
    """
    factory, told, settings = split(registry, table)
    check(factory, settings, told, given)
    defaults = {name: parameter.default for name, parameter in own_parameters(factory, given).items()}
    return {"name": table["name"], **defaults, **settings}


def call_text(factory: Callable[..., Any], name: str, settings: Mapping[str, Any]) -> str:
    """A name with its settings as one would write it, without those that equal the default: one text for one thing.

    >>> def flow(blocks=16, width=10): ...
    >>> call_text(flow, "flow", {"width": 10, "blocks": 8})
    'flow(blocks=8)'
    """
    known = inspect.signature(factory).parameters
    own = {key: frozen(value) for key, value in sorted(settings.items())}
    told = [f"{key}={value!r}" for key, value in own.items() if key not in known or known[key].default != value]
    return f"{name}({', '.join(told)})" if told else name


def read_call(text: str, kind: str) -> tuple[str, dict[str, Any]]:
    """Name and settings of `name` or `name(setting=value, ...)`, values being Python literals.

    Args:
        kind: what errors call it, such as `A detector`.

    Raises:
        ValueError: neither form.

    >>> read_call("jpeg(quality=90)", "A perturbation")
    ('jpeg', {'quality': 90})
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        settings = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg is not None}
        whole = len(settings) == len(call.keywords) and not call.args  # nothing starred, nothing twice
        name = call.func.id if isinstance(call.func, ast.Name) and whole else None
    except (SyntaxError, ValueError):
        name = None
    if name is None:
        raise ValueError(
            f"{kind} is written as name or name(setting=value), values numbers or quoted text, not {text!r}"
        )
    return name, settings


def split(
    registry: Registry[Callable[..., T]], table: Mapping[str, Any]
) -> tuple[Callable[..., T], str, dict[str, Any]]:
    """The factory, what errors call it, and the settings for it."""
    name = table.get("name")
    if not isinstance(name, str):
        raise ValueError(f"A {registry.kind} needs a name. There are: {', '.join(registry)}.")
    factory = registry[name]
    settings = {key: frozen(value) for key, value in table.items() if key != "name"}
    return factory, f"{registry.kind} '{name}'", settings


def check(factory: Callable[..., Any], settings: Mapping[str, Any], told: str, given: int) -> None:
    own = own_parameters(factory, given)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values())
    for name in settings:
        if name not in own and not takes_any:
            raise ValueError(f"{told} has no setting '{name}'. {nearest(name, list(own)) if own else 'It has none.'}")
    for name, parameter in own.items():
        if parameter.default is parameter.empty and name not in settings:
            raise ValueError(f"{told} needs the setting '{name}'")


def own_parameters(factory: Callable[..., Any], given: int) -> dict[str, inspect.Parameter]:
    """The parameters that a table may set."""
    parameters = list(inspect.signature(factory).parameters.values())[given:]
    return {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def frozen(value: Any) -> Any:
    """Arrays of TOML as tuples, all the way down."""
    if isinstance(value, Mapping):
        return {name: frozen(item) for name, item in value.items()}
    return tuple(frozen(item) for item in value) if isinstance(value, list | tuple) else value
