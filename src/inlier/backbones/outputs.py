"""Where the logits are in what a network returns: a tensor, or one of several in a dict, a tuple or an object.

An `Output` picks them by key, attribute or index. `find_output` looks at one raw output and picks by itself only where
no second reading is possible; everywhere else the user says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from inlier.registry import nearest

__all__ = ["Output", "find_output"]

USUAL = ("logits", "out")
"""What transformers and torchvision call the logits."""

RANKS = (2, 4)
"""Logits are (n, classes) or (n, classes, h, w)."""


@dataclass(frozen=True)
class Output:
    """The part of a raw output that is the logits: a dict's key, an object's attribute or a tuple's index.

    An index counts from 0, a negative one from the end.

        >>> import torch
        >>> Output("seg")({"seg": torch.ones(1, 2), "depth": torch.zeros(1, 1)})
        tensor([[1., 1.]])
    """

    name: str

    def __call__(self, raw: Any) -> Tensor:
        """The logits in `raw`.

        Raises:
            LookupError: there is no such part; the message lists those that there are.
            TypeError: the part is not a tensor, or `raw` is one tensor with nothing to pick from.
        """
        if isinstance(raw, Tensor):
            raise TypeError(f"The network returns one tensor, {shape(raw)}: there is no '{self.name}' to pick from it")
        found, name = parts(raw), self.name
        if isinstance(raw, Sequence) and name.removeprefix("-").isdigit() and -len(raw) <= int(name) < len(raw):
            name = list(found)[int(name)]
        if name not in found:
            raise LookupError(
                f"The network's output has no '{self.name}'. {nearest(self.name, [*found])} It holds {listing(found)}."
            )
        logits = found[name]
        if not isinstance(logits, Tensor):
            raise TypeError(f"'{self.name}' of the network's output is {type(logits).__name__}, not a tensor of logits")
        return logits


def find_output(raw: Any) -> Output | None:
    """What picks the logits out of `raw`, or None where `raw` is a tensor and nothing needs picking.

    Taken are exactly one of the usual names (`logits`, `out`), or else the only tensor of rank 2 or 4.

    Raises:
        TypeError: neither is there, or more than one; the message lists what there is and names the option.
    """
    if isinstance(raw, Tensor):
        return None
    found = parts(raw)
    tensors = [name for name, value in found.items() if isinstance(value, Tensor) and value.ndim in RANKS]
    usual = [name for name in USUAL if name in tensors]
    choice = usual or tensors
    if len(choice) != 1:
        raise TypeError(
            f"The network returns {type(raw).__name__} with {listing(found)}. Say which of them are the logits: "
            "--output NAME, a key, an attribute or an index (in Python: output='NAME')."
        )
    return Output(choice[0])


def parts(raw: Any) -> dict[str, Any]:
    """Everything in a raw output by the name it can be picked by."""
    if isinstance(raw, Mapping):
        return {str(name): value for name, value in raw.items()}
    if isinstance(raw, Sequence) and not isinstance(raw, str | bytes):
        names = getattr(raw, "_fields", [str(index) for index in range(len(raw))])
        return dict(zip(names, raw, strict=True))
    return {name: value for name, value in getattr(raw, "__dict__", {}).items() if not name.startswith("_")}


def shape(value: Any) -> str:
    return f"{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def listing(found: Mapping[str, Any]) -> str:
    """Names with shapes, for messages."""
    return ", ".join(f"'{name}' {shape(value)}" for name, value in found.items()) or "nothing"
