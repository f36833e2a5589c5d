"""How shapes are executed while the tests run: every tensor annotation is checked, at every call.

Other annotations are the type checker's business: it sees them all, and tests hand over wrong types on purpose. So only
functions that name a shape are wrapped, and of these only the tensors are looked at: checking all that jaxtyping's own
decorator checks makes the tests take twice as long.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from typing import Any

import jaxtyping

ABSENT = object()

context = jaxtyping.jaxtyped


def install() -> None:
    """Check the functions of `inlier` that are imported from now on."""
    jaxtyping.jaxtyped = jaxtyped
    jaxtyping.install_import_hook("inlier", None)


def jaxtyped(function: Any = None, *, typechecker: object = None) -> Any:
    """Stands in for `jaxtyping.jaxtyped`, which the import hook puts on every function and class."""
    if function is None:
        return jaxtyped
    if inspect.isclass(function):
        if is_dataclass(function) and "__init__" in vars(function):
            function.__init__ = checked(function.__init__)
        return function
    return checked(function) if inspect.isfunction(function) else function


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its tensors checked, if it names the shape of any; sizes of one name agree within a call."""
    shapes = {name: shape for name, shape in annotations_of(function).items() if is_shape(shape)}
    if not shapes:
        return function
    returned = shapes.pop("return", None)
    places = []
    for place, (name, parameter) in enumerate(inspect.signature(function).parameters.items()):
        if name in shapes:
            places.append((math.inf if parameter.kind is parameter.KEYWORD_ONLY else place, name))

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        with context("context"):
            for place, name in places:
                value = args[place] if place < len(args) else kwargs.get(name, ABSENT)
                if value is not ABSENT:  # it has its default, or is missing, as the function itself will say
                    check(function, name, value, shapes[name])
            result = function(*args, **kwargs)
            if returned is not None:
                check(function, "what it returns", result, returned)
        return result

    return wrapper


def check(function: Callable[..., Any], name: str, value: object, shape: Any) -> None:
    if isinstance(value, shape):
        return
    came = f"{value.dtype} {tuple(value.shape)}" if hasattr(value, "shape") else f"{type(value).__name__} {value!r:.60}"
    raise jaxtyping.TypeCheckError(f"{function.__module__}.{function.__qualname__}: {name} should be {shape}: {came}")


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations by name; those that cannot be told yet as the strings they are."""
    found = {}
    for name, annotation in function.__annotations__.items():
        try:
            found[name] = eval(annotation, function.__globals__) if isinstance(annotation, str) else annotation
        except (NameError, AttributeError, TypeError):  # of a class or module that is still being made
            found[name] = annotation
    return found


def is_shape(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray)
