"""A network by where its factory is: `package.module:factory`, imported with the current directory on the path.

The factory is called without arguments. Each way in which this can fail is an error of its own, which names the part
that is wrong and the nearest name that is there.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from torch import nn

from inlier.errors import InlierError, Unavailable
from inlier.registry import nearest

__all__ = ["made_by"]


def made_by(text: str) -> nn.Module:
    """What `package.module:factory` makes; a module that is there ready-made is taken as it is.

    Raises:
        LookupError: no such module or attribute.
        Unavailable: the module is there, but something that it imports is not.
        TypeError: the attribute cannot be called without arguments, or makes no module.
        ValueError: importing the module or calling the factory raised something else.
    """
    module_name, _, attribute = text.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"A factory is package.module:factory, not {text!r}")
    with current_directory_on_path():
        module = _imported(module_name)
        made = _attribute(module, attribute)
        if not isinstance(made, nn.Module):
            made = _called(made, text)
    if not isinstance(made, nn.Module):
        raise TypeError(f"'{text}' makes {type(made).__name__}, not a torch.nn.Module")
    return made


@contextmanager
def current_directory_on_path() -> Iterator[None]:
    """The current directory comes first on the import path, as it does for `python -m`."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):  # what was imported may have changed the path itself
            sys.path.remove(here)


def _imported(name: str) -> ModuleType:
    module: ModuleType | None = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        part = ".".join(parts[:end])
        try:
            module = importlib.import_module(part)
        except ModuleNotFoundError as error:
            if error.name == part:
                raise LookupError(f"No module '{part}'{_where(module)}. {_siblings(parts[end - 1], module)}") from None
            raise Unavailable(f"Module '{part}' does not import: {error}. Install what it needs.") from error
        except ImportError as error:
            raise Unavailable(f"Module '{part}' does not import: {error}") from error
        except InlierError:
            raise
        except (Exception, SystemExit) as error:  # a script without a main guard may even end the interpreter
            raise ValueError(f"Module '{part}' does not import: {type(error).__name__}: {error}") from error
    assert module is not None
    return module


def _where(package: ModuleType | None) -> str:
    return f" in '{package.__name__}'" if package is not None else f" in {os.getcwd()} or installed"


def _siblings(name: str, package: ModuleType | None) -> str:
    """The nearest module beside the one that is missing."""
    paths = [os.getcwd()] if package is None else list(getattr(package, "__path__", []))
    there = [found.name for found in pkgutil.iter_modules(paths)]
    return nearest(name, there) if there else "Run this where your module is, or install its package."


def _attribute(module: ModuleType, path: str) -> Any:
    value: Any = module
    for name in path.split("."):
        if not hasattr(value, name):
            owner = f"Module '{module.__name__}'" if value is module else f"'{module.__name__}:{path}'"
            public = [known for known in vars(value) if not known.startswith("_")]
            raise LookupError(f"{owner} has no '{name}'. {nearest(name, public) if public else 'It is empty.'}")
        value = getattr(value, name)
    return value


def _called(factory: Any, text: str) -> Any:
    if not callable(factory):
        raise TypeError(
            f"'{text}' is {type(factory).__name__}, neither a torch.nn.Module nor a function that makes one"
        )
    needed = _needed(factory)
    if needed:
        raise TypeError(
            f"'{text}' needs {', '.join(needed)} and is called without arguments. Write a function that takes none "
            "and returns the module."
        )
    try:
        return factory()
    except InlierError:
        raise
    except Exception as error:
        raise ValueError(f"'{text}' raised {type(error).__name__}: {error}") from error


def _needed(factory: Any) -> list[str]:
    """Names of the arguments that have no default."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # a function without a signature, written in C
        return []
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind in named]
