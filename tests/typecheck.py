"""How shapes are executed while the tests run: every tensor annotation is checked, at every call, by beartype.

Other annotations are the type checker's business: it sees them all, and tests hand over wrong types on purpose.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jaxtyping
from beartype import beartype

T = TypeVar("T")

checked = jaxtyping.jaxtyped


def install() -> None:
    """Check the functions of `inlier` that are imported from now on; those that name no shape stay as they are."""
    jaxtyping.jaxtyped = where_shapes_are
    jaxtyping.install_import_hook("inlier", "typecheck.check")


def where_shapes_are(function: Any = None, *, typechecker: Any) -> Any:
    """`jaxtyped`, which makes each call of a function several times slower, where there is something to check."""
    if function is None:
        return lambda function: where_shapes_are(function, typechecker=typechecker)
    if inspect.isfunction(function) and not any(
        is_shape(annotation) for annotation in annotations_of(function).values()
    ):
        return function
    return checked(function, typechecker=typechecker)


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


def check(function: T) -> T:
    """Check the annotations of `function` that say the shape of a tensor."""
    annotations = getattr(function, "__annotations__", {})
    for name, annotation in annotations.items():
        if not is_shape(annotation):
            annotations[name] = Any
    return beartype(function)
