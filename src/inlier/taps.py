"""Taps: the places inside a network where activations can be seen.

A tap is the output or the input of one module. `find_taps` runs the network once and lists them with their shapes;
`tapped` calls back at each of them during a forward pass and always removes its hooks, also when the model raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from inlier.backbones.base import Backbone
from inlier.errors import Mismatch

__all__ = ["OUTPUT", "Shape", "Tap", "find_taps", "tapped"]

Shape: TypeAlias = tuple[int, int, int]
"""(channels, height, width) of one image's activation; a vector has height and width 1."""


@dataclass(frozen=True, order=True)
class Tap:
    """One side of one module, named as in `backbone.network.named_modules()`."""

    module: str
    side: Literal["output", "input"] = "output"

    def __str__(self) -> str:
        return self.module if self.side == "output" else f"{self.module}:input"

    @classmethod
    def parse(cls, text: str) -> Tap:
        """The tap that `str(tap)` came from."""
        module, _, side = text.partition(":")
        if side not in ("", "input", "output"):
            raise ValueError(f"A tap is 'module' or 'module:input', not {text!r}")
        return cls(module, "input" if side == "input" else "output")


OUTPUT = Tap("(logits)")
"""The backbone's logits themselves, after the task has made them."""


@contextmanager
def tapped(backbone: Backbone, callbacks: Mapping[Tap, Callable[[Tensor], None]]) -> Iterator[None]:
    """Call back with the activation at each tap, at the moment it exists, so that later in-place changes do not matter.

    Raises:
        ValueError: the network has no such module.
        Mismatch: during the forward pass, what passes a tap is not a tensor.
    """
    handles = []
    try:
        for tap, callback in callbacks.items():
            module = _module(backbone, tap)
            if tap.side == "output" or tap is OUTPUT:
                handles.append(module.register_forward_hook(_output_hook(tap, callback)))
            else:
                handles.append(module.register_forward_pre_hook(_input_hook(tap, callback)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_taps(backbone: Backbone, size: tuple[int, int], channels: int = 3) -> dict[Tap, Shape]:
    """Both sides of every leaf module that runs once and passes one tensor, in running order, for images of `size`."""
    found: dict[Tap, Shape] = {}
    repeated: set[str] = set()
    leaves = [name for name, module in backbone.network.named_modules() if not list(module.children())]

    def record(tap: Tap, value: Any) -> None:
        if isinstance(value, Tensor) and value.ndim in (2, 4):
            if tap in found:
                repeated.add(tap.module)
            found[tap] = _shape(value)

    handles = []
    try:
        for name in leaves:
            module = backbone.network.get_submodule(name)
            handles.append(
                module.register_forward_pre_hook(lambda _, args, name=name: record(Tap(name, "input"), args[0]))
            )
            handles.append(module.register_forward_hook(lambda _, __, out, name=name: record(Tap(name), out)))
        with torch.no_grad():
            backbone(torch.full((1, channels, *size), 0.5, device=backbone.mean.device))
    finally:
        for handle in handles:
            handle.remove()
    return {tap: shape for tap, shape in found.items() if tap.module not in repeated}


def _shape(activation: Tensor) -> Shape:
    channels, height, width = (*activation.shape[1:], 1, 1)[:3]
    return channels, height, width


def _module(backbone: Backbone, tap: Tap) -> nn.Module:
    if tap is OUTPUT or tap == OUTPUT:
        return backbone
    try:
        return backbone.network.get_submodule(tap.module)
    except AttributeError:
        raise ValueError(
            f"The network has no module '{tap.module}'; see the names in find_taps(backbone, size)"
        ) from None


def _output_hook(tap: Tap, callback: Callable[[Tensor], None]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        callback(_tensor(tap, output))

    return hook


def _input_hook(tap: Tap, callback: Callable[[Tensor], None]) -> Callable[[nn.Module, Any], None]:
    def hook(module: nn.Module, args: Any) -> None:
        callback(_tensor(tap, args[0] if args else None))

    return hook


def _tensor(tap: Tap, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise Mismatch(f"Tap '{tap}' passes {type(value).__name__}, not a tensor; tap a module inside it instead")
    return value
