"""Taps: the places inside a network where activations can be seen.

A tap is the output or the input of one module. `find_taps` runs the network once and lists them with their shapes; a
`Listener` hears what passes some of them during a forward pass, and its hooks are always removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from inlier.backbones.base import Backbone
from inlier.errors import Mismatch
from inlier.registry import nearest

__all__ = ["OUTPUT", "Listener", "Shape", "Tap", "find_taps"]

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


class Listener:
    """Calls back with the activation at each of some taps while the network runs.

    Args:
        backbone: its modules are looked up once, here.
        taps: where to listen.

    Raises:
        ValueError: the network has no such module.
    """

    def __init__(self, backbone: Backbone, taps: Sequence[Tap]) -> None:
        self.taps = tuple(taps)
        self._modules = [_module(backbone, tap) for tap in self.taps]

    @contextmanager
    def listening(self, callback: Callable[[int, Tensor], None]) -> Iterator[None]:
        """Within this context, `callback(position, activation)` is called with what passes `taps[position]`.

        It is called at the moment the activation exists, so that later in-place changes do not matter, and it is
        called no more once the context is left, in whatever way.

        Raises:
            Mismatch: during the forward pass, what passes a tap is not a tensor.
        """
        handles: list[RemovableHandle] = []
        try:
            for position, (tap, module) in enumerate(zip(self.taps, self._modules, strict=True)):
                if tap.side == "output":
                    handles.append(module.register_forward_hook(_output_hook(tap, position, callback)))
                else:
                    handles.append(module.register_forward_pre_hook(_input_hook(tap, position, callback)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def find_taps(backbone: Backbone, size: tuple[int, int], channels: int = 3) -> dict[Tap, Shape]:
    """Both sides of every leaf module that runs once and passes one tensor, in running order, for images of `size`."""
    found: dict[Tap, Shape] = {}
    calls: Counter[Tap] = Counter()
    leaves = [name for name, module in backbone.network.named_modules() if not list(module.children())]

    def record(tap: Tap, value: Any) -> None:
        calls[tap] += 1
        if isinstance(value, Tensor) and value.ndim in (2, 4) and len(value) == 1:  # the first axis is the images'
            found[tap] = _shape(value)

    handles = []
    try:
        for name in leaves:
            module = backbone.network.get_submodule(name)
            handles.append(
                module.register_forward_pre_hook(
                    lambda _, args, name=name: record(Tap(name, "input"), args[0] if args else None)
                )
            )
            handles.append(module.register_forward_hook(lambda _, __, out, name=name: record(Tap(name), out)))
        with torch.no_grad():
            backbone(torch.full((1, channels, *size), 0.5, device=backbone.mean.device))
    finally:
        for handle in handles:
            handle.remove()
    return {tap: shape for tap, shape in found.items() if calls[tap] == 1}


def _shape(activation: Tensor) -> Shape:
    channels, height, width = (*activation.shape[1:], 1, 1)[:3]
    return channels, height, width


def _module(backbone: Backbone, tap: Tap) -> nn.Module:
    if tap == OUTPUT:
        return backbone
    try:
        return backbone.network.get_submodule(tap.module)
    except AttributeError:
        names = [name for name, _ in backbone.network.named_modules() if name]
        raise ValueError(f"The network has no module '{tap.module}'. {nearest(tap.module, names)}") from None


def _output_hook(tap: Tap, position: int, callback: Callable[[int, Tensor], None]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        callback(position, _tensor(tap, output))

    return hook


def _input_hook(tap: Tap, position: int, callback: Callable[[int, Tensor], None]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any) -> None:
        callback(position, _tensor(tap, args[0] if args else None))

    return hook


def _tensor(tap: Tap, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise Mismatch(f"Tap '{tap}' passes {type(value).__name__}, not a tensor; tap a module inside it instead")
    return value
