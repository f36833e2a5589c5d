"""Taps: the places inside a network where activations can be seen.

A tap is the output or the input of one module. `list_taps` runs the network once and tells of every module whether it
can be tapped, with shapes and reasons; a `Listener` hears what passes some taps during a forward pass, and its hooks
are always removed. What passes is (n, channels, height, width), (n, channels), or tokens (n, tokens, channels), which
are heard as maps of one column: (n, channels, tokens, 1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias

import torch
from torch import Tensor, nn

from inlier.backbones.base import Backbone
from inlier.errors import Mismatch
from inlier.registry import nearest

__all__ = ["OUTPUT", "Listener", "Place", "Shape", "Tap", "find_taps", "list_taps"]

Shape: TypeAlias = tuple[int, int, int]
"""(channels, height, width) of one image's activation; a vector has height and width 1, tokens have width 1."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
LOOKED_AT = 2
"""Images in the pass that looks for taps: one could not tell the axis of images from what is the same for all."""


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


@dataclass(frozen=True)
class Place:
    """One side of one module, and whether it can be tapped.

    Args:
        tap: its name and side.
        kind: the module's class.
        role: what selections go by.
        leaf: whether nothing inside the module can be tapped by itself: it has no children, or is compiled.
        shape: of one image's activation; None where it cannot be tapped.
        problem: why it cannot be tapped; empty where it can.
    """

    tap: Tap
    kind: str
    role: Literal["convolution", "batch_norm", ""]
    leaf: bool
    shape: Shape | None
    problem: str = ""


OUTPUT = Tap("(logits)")
"""The backbone's logits themselves, after the task has made them."""


class Listener:
    """Keeps something of what passes some taps while the network runs.

    Args:
        backbone: its modules are looked up once, here.
        keeps: taps, and what makes of an activation there what is kept of it. A tap may occur again.

    Raises:
        ValueError: the network has no such module.
        Mismatch: the module is inside a compiled or scripted graph, where nobody can listen.
    """

    def __init__(self, backbone: Backbone, keeps: Sequence[tuple[Tap, Callable[[Tensor], Tensor]]]) -> None:
        self.backbone = backbone
        self.keeps = tuple(keeps)
        self._kept: list[Tensor | None] = [None] * len(keeps)
        self._busy = False
        self._outputs: list[tuple[nn.Module, Callable[..., Any] | None, Callable[..., None]]] = []
        self._inputs: list[tuple[dict[Any, Any], Callable[..., None]]] = []
        seats = {seat.name: seat for seat in _seats(backbone)}
        at_tap: dict[Tap, list[tuple[int, Callable[[Tensor], Tensor]]]] = {}
        for position, (tap, keep) in enumerate(keeps):
            at_tap.setdefault(tap, []).append((position, keep))
        for tap, positions in at_tap.items():
            seat = None if tap == OUTPUT else _seat(seats, tap)
            module = backbone if seat is None else seat.module
            hear = self._ear(tap, positions)
            if tap.side == "output":
                overheard = None if seat and seat.by_hook else _overheard(module, hear)
                self._outputs.append((module, overheard, lambda _, __, output, hear=hear: hear(output)))
            else:
                before = module._forward_pre_hooks
                self._inputs.append((before, lambda _, args, hear=hear: hear(args[0] if args else None)))

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
                if overheard is None or module._forward_hooks or "forward" in module.__dict__:
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

    def _ear(self, tap: Tap, positions: Sequence[tuple[int, Callable[[Tensor], Tensor]]]) -> Callable[[Any], None]:
        """What is told of that which passes a tap: one ear, however many readers keep something of it."""
        first = positions[0][0]

        def hear(value: Any) -> None:
            if not isinstance(value, Tensor) or self._kept[first] is not None:
                refuse(tap, value)
            if value.ndim == 3:
                value = token_map(value)
            for position, keep in positions:
                self._kept[position] = keep(value)

        return hear


def _overheard(module: nn.Module, hear: Callable[[Any], None]) -> Callable[..., Any]:
    """What stands in for the module's forward."""
    forward = MethodType(type(module).forward, module)

    def overheard(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        hear(output)
        return output

    return overheard


def refuse(tap: Tap, value: Any) -> NoReturn:
    if isinstance(value, Tensor):
        raise Mismatch(f"'{tap}' runs more than once in a forward pass; tap a module that runs once")
    raise Mismatch(f"Tap '{tap}' passes {type(value).__name__}, not a tensor; tap a module inside it instead")


def token_map(tokens: Tensor) -> Tensor:
    """Tokens (n, tokens, channels) as a map of one column: (n, channels, tokens, 1)."""
    return tokens.transpose(1, 2).unsqueeze(-1)


def find_taps(backbone: Backbone, size: tuple[int, int], channels: int = 3) -> dict[Tap, Shape]:
    """Both sides of every leaf module that can be tapped, in running order, for images of `size`.

    Raises:
        Mismatch: the whole network is compiled or scripted, so that nothing inside it can be heard.
    """
    seal = _seal(backbone) or _seal(backbone.network)
    if seal:
        raise Mismatch(f"Nothing in the network can be tapped: the network is {seal}")
    places = list_taps(backbone, size, channels)
    return {place.tap: place.shape for place in places if place.leaf and place.shape is not None}


def list_taps(backbone: Backbone, size: tuple[int, int], channels: int = 3) -> tuple[Place, ...]:
    """Both sides of every module under every name it has: in running order, and last those that nothing came past.

    Two blank images of `size` (h, w) are passed through the network once. A compiled or scripted module is a single
    place: its graph may be fixed, so that a hook inside is heard or not as it happens.
    """
    heard: dict[Tap, Heard] = {}
    calls: Counter[Tap] = Counter()
    in_a_graph: list[Tap] = []

    def record(tap: Tap, value: Any) -> None:
        if torch.compiler.is_compiling():  # a function that is compiled calls the module
            in_a_graph.append(tap)
            return
        calls[tap] += 1
        heard[tap] = _heard(tap, value)

    seats = list(_seats(backbone))
    handles = []
    try:
        for seat in seats:
            if seat.unheard or seat.same_as is not None:
                continue
            before, after = Tap(seat.name, "input"), Tap(seat.name)
            handles.append(
                seat.module.register_forward_pre_hook(
                    lambda _, args, tap=before: record(tap, args[0] if args else None)
                )
            )
            handles.append(seat.module.register_forward_hook(lambda _, __, out, tap=after: record(tap, out)))
        if handles:
            with torch.no_grad():
                backbone(torch.full((LOOKED_AT, channels, *size), 0.5, device=backbone.mean.device))
    finally:
        for handle in handles:
            handle.remove()

    places: dict[Tap, Place] = {}
    for seat in seats:
        for tap in (Tap(seat.name, "input"), Tap(seat.name)):
            shape, problem = heard.get(tap, Heard(None, "never runs"))
            if seat.unheard:
                shape, problem = None, seat.unheard
            elif seat.same_as is not None:
                shape, problem = None, f"is the module '{seat.same_as}' under another name"
            elif tap in in_a_graph:
                shape, problem = None, "runs inside a compiled function"
            elif calls[tap] > 1:
                shape, problem = None, f"runs {calls[tap]} times in a forward pass"
            places[tap] = Place(tap, type(seat.module).__name__, seat.role, seat.leaf, shape, problem)
    return (*(places.pop(tap) for tap in heard), *places.values())


class Heard(NamedTuple):
    """What a tap passed: its shape, or what is wrong with it."""

    shape: Shape | None
    problem: str


def _heard(tap: Tap, value: Any) -> Heard:
    if value is None and tap.side == "input":
        return Heard(None, "gets no input by position")
    if not isinstance(value, Tensor):
        return Heard(None, f"passes {type(value).__name__}, not a tensor")
    if not value.is_floating_point():
        return Heard(None, f"passes {str(value.dtype).removeprefix('torch.')}, not real numbers")
    if value.ndim not in (2, 3, 4):
        return Heard(None, f"passes a tensor of {value.ndim} axes, not of 2, 3 or 4")
    if len(value) != LOOKED_AT:
        return Heard(None, f"has no axis of images in front: {tuple(value.shape)} came for {LOOKED_AT} images")
    if value.ndim == 3:
        value = token_map(value)
    channels, height, width = (*value.shape[1:], 1, 1)[:3]
    return Heard((channels, height, width), "")


class Seat(NamedTuple):
    """A module under one of its names.

    `unheard` is why nobody can listen to it, `same_as` its first name, and `by_hook` is whether its output is heard by
    a hook alone: TorchScript has no forward to stand in for, and a transformer layer runs its parts only if they have
    hooks.
    """

    name: str
    module: nn.Module
    role: Literal["convolution", "batch_norm", ""]
    leaf: bool
    unheard: str
    same_as: str | None
    by_hook: bool


def _seats(backbone: Backbone) -> Iterator[Seat]:
    whole = _seal(backbone) or _seal(backbone.network)
    sealed: dict[str, str] = {}
    first: dict[nn.Module, str] = {}
    layers = [
        f"{name}."
        for name, module in backbone.network.named_modules(remove_duplicate=False)
        if isinstance(module, nn.TransformerEncoderLayer)
    ]
    for name, module in backbone.network.named_modules(remove_duplicate=False):
        seal = _seal(module)
        around = next((outer for outer in sealed if name.startswith(f"{outer}.")), None)
        unheard = ""
        if whole:
            unheard = f"the network is {whole}"
        elif around is not None:
            unheard = f"runs inside '{around}', which is {sealed[around]}"
        elif module._compiled_call_impl is not None:  # its hooks are compiled with it
            unheard = f"is {seal}"
        if seal and around is None:
            sealed[name] = seal
        same_as = first.setdefault(module, name)
        role: Literal["convolution", "batch_norm", ""] = ""
        if isinstance(module, CONVOLUTIONS):
            role = "convolution"
        elif isinstance(module, BATCH_NORMS):
            role = "batch_norm"
        leaf = bool(seal) or not list(module.children())
        by_hook = bool(seal) or name.startswith(tuple(layers))
        yield Seat(name, module, role, leaf, unheard, same_as if same_as != name else None, by_hook)


def _seal(module: nn.Module) -> str:
    """Why nobody can listen inside, and what to do; empty where one can."""
    if "_orig_mod" in module._modules:  # what torch.compile makes; to import its class takes a second
        return "compiled: give the module before torch.compile, `network._orig_mod`"
    if module._compiled_call_impl is not None:
        return "compiled in place: give a module whose compile() was not called"
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript: give the module before it was scripted or traced"
    return ""


def _seat(seats: Mapping[str, Seat], tap: Tap) -> Seat:
    if tap.module not in seats:
        names = [name for name in seats if name]
        raise ValueError(f"The network has no module '{tap.module}'. {nearest(tap.module, names)}")
    seat = seats[tap.module]
    if seat.unheard:
        raise Mismatch(f"Nothing can be heard at '{tap}': {seat.unheard}")
    return seat
