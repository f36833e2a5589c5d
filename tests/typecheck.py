"""How shapes are executed while the tests run: every tensor annotation is checked, at every call, by beartype.

Other annotations are the type checker's business: it sees them all, and tests hand over wrong types on purpose.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jaxtyping
from beartype import beartype

T = TypeVar("T")


def check(function: T) -> T:
    """Check the annotations of `function` that say the shape of a tensor."""
    annotations = getattr(function, "__annotations__", {})
    for name, annotation in annotations.items():
        if not (isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray)):
            annotations[name] = Any
    return beartype(function)
