"""Taps: the places inside a network where activations can be seen.

A tap is the output or the input of one module. `find_taps` runs the network once and lists them with their shapes; a
`Listener` hears what passes some of them during a forward pass, and its hooks are always removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any, Literal, NoReturn, TypeAlias

import torch
from torch import Tensor, nn

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
    """Keeps something of what passes some taps while the network runs.

    Args:
        backbone: its modules are looked up once, here.
        keeps: taps, and what makes of an activation there what is kept of it. A tap may occur again.

    Raises:
        ValueError: the network has no such module.
    """

    def __init__(self, backbone: Backbone, keeps: Sequence[tuple[Tap, Callable[[Tensor], Tensor]]]) -> None:
        self.backbone = backbone
        self.keeps = tuple(keeps)
        self._kept: list[Tensor | None] = [None] * len(keeps)
        self._busy = False
        self._outputs: list[tuple[nn.Module, Callable[..., Any], Callable[..., None]]] = []
        self._inputs: list[tuple[dict[Any, Any], Callable[..., None]]] = []
        for position, (tap, keep) in enumerate(keeps):
            module = _module(backbone, tap)
            if tap.side == "output":
                hook = self._output_hook(tap, position, keep)
                self._outputs.append((module, self._overheard(module, tap, position, keep), hook))
            else:
                self._inputs.append((module._forward_pre_hooks, self._input_hook(tap, position, keep)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Listener, (self.backbone, self.keeps)  # hooks belong to modules, so that a copy needs its own

    @contextmanager
    def listening(self) -> Iterator[list[Tensor | None]]:
        """A list of what is kept, in the order of `keeps`; within this context a forward pass fills it.

        Each activation is dealt with at the moment it exists, so that later in-place changes do not matter. No hook
        outlives the context, in whatever way it is left.

        Raises:
            Mismatch: during the forward pass, what passes a tap is not a tensor, or the tap is passed again.
            RuntimeError: the context is entered within itself, or by two threads at once.
        """
        if self._busy:
            raise RuntimeError(
                "This listener is listening already: a network is observed by one forward pass at a time"
            )
        self._busy = True
        taken: list[tuple[dict[Any, Any], Any]] = []

        def put(place: dict[Any, Any], name: Any, ear: Callable[..., Any]) -> None:
            place[name] = ear
            taken.append((place, name))

        try:
            # A module with hooks runs slowly, in PyTorch's own code. So the output of one without them is heard by
            # standing in for its forward, and hooks are put in directly, since their handles cost more than they do.
            for module, overheard, hook in self._outputs:
                if module._forward_hooks or "forward" in module.__dict__:
                    put(module._forward_hooks, hook, hook)
                else:
                    put(module.__dict__, "forward", overheard)
            for hooks, hook in self._inputs:
                put(hooks, hook, hook)
            yield self._kept
        finally:
            for place, name in taken:
                place.pop(name, None)
            self._kept = [None] * len(self._kept)
            self._busy = False

    def _overheard(
        self, module: nn.Module, tap: Tap, position: int, keep: Callable[[Tensor], Tensor]
    ) -> Callable[..., Any]:
        forward = MethodType(type(module).forward, module)

        def overheard(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            if not isinstance(output, Tensor) or self._kept[position] is not None:
                refuse(tap, output)
            self._kept[position] = keep(output)
            return output

        return overheard

    def _output_hook(self, tap: Tap, position: int, keep: Callable[[Tensor], Tensor]) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or self._kept[position] is not None:
                refuse(tap, output)
            self._kept[position] = keep(output)

        return hook

    def _input_hook(self, tap: Tap, position: int, keep: Callable[[Tensor], Tensor]) -> Callable[..., None]:
        hook = self._output_hook(tap, position, keep)

        def pre_hook(module: nn.Module, args: Any) -> None:
            hook(module, args, args[0] if args else None)

        return pre_hook


def refuse(tap: Tap, value: Any) -> NoReturn:
    if isinstance(value, Tensor):
        raise Mismatch(f"'{tap}' runs more than once in a forward pass; tap a module that runs once")
    raise Mismatch(f"Tap '{tap}' passes {type(value).__name__}, not a tensor; tap a module inside it instead")


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
