"""MC-dropout: how much the confidence varies when parts of the network are left out (Gal and Ghahramani, ICML 2016,
arXiv:1506.02142), the second baseline of the DAAIN paper (section 4.1).

Every pass asks another sub-network, drawn by dropping inputs of every layer that has weights. Draws come from a seed
and are the same for all images, so that scores differ because the images do and do not depend on the batch. The
prediction that is monitored stays that of the whole network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from inlier.anatomy import Anatomy
from inlier.backbones.base import Backbone
from inlier.detectors.base import Detector
from inlier.errors import Mismatch
from inlier.observation import Look, Observation
from inlier.types import Maps, Scores

__all__ = ["Dropout", "MCDropout", "mc_dropout"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHT_LAYERS = (*CONVOLUTIONS, nn.Linear, nn.MultiheadAttention)
INPUTS = ("input", "query", "key", "value")
"""What the weight layers call the activations that they take."""
LEVELS = 2**16
"""A rate is rounded to a multiple of one over this."""


@dataclass(frozen=True)
class Dropout(Look):
    """The network with dropout before every weight layer, for the time of one pass.

    Weight layers are convolutions, transposed convolutions, linear layers and `nn.MultiheadAttention` (its output
    projection runs inside of it and is not reached). The images of a batch lose the same inputs:

    * a convolution single values, each channel and pixel by itself, as `nn.Dropout` does and not whole channels; the
      DAAIN paper says no more than "dropout layers";
    * a linear layer features, the same for every token that it is applied to. Networks differ in where they keep the
      axis of images, and a draw that is the same along all axes but the last cannot depend on the batch.

    What is kept is scaled by 1 / (1 - rate). Dropout that the network has of its own stays off.

    Args:
        rate: the share of inputs that is dropped, at least 0 and less than 1.

    Raises:
        ValueError: another rate, or no generator to draw from.
        Mismatch: the network has no weight layer, or none that runs as a module, as in a compiled network.
    """

    rate: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"A dropout rate is at least 0 and less than 1, not {self.rate!r}")

    @contextmanager
    def network(self, backbone: Backbone, generator: torch.Generator | None) -> Iterator[None]:
        """The context in which inputs are dropped; every pass in it goes on with the generator's draws.

        No hook outlives it, in whatever way it is left. Hooks of the user's own run first, as they do in the layer.
        """
        if generator is None:
            raise ValueError("Dropout is random: hand it a generator, as torch.Generator().manual_seed(0)")
        source = generator
        layers = [module for module in backbone.network.modules() if isinstance(module, WEIGHT_LAYERS)]
        reached = False

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            nonlocal reached
            reached = True
            thinned: dict[int, Tensor] = {}  # self-attention takes one tensor three times

            def thin(x: Tensor) -> Tensor:
                if id(x) not in thinned:
                    kept = ~drawn(shared_shape(module, x), self.rate, source).to(x.device)
                    thinned[id(x)] = x * (kept.to(x.dtype) / (1 - self.rate))
                return thinned[id(x)]

            count = 3 if isinstance(module, nn.MultiheadAttention) else 1
            named = {name: thin(value) if name in INPUTS else value for name, value in kwargs.items()}
            return (*(thin(value) for value in args[:count]), *args[count:]), named

        handles = []
        try:
            for layer in layers:
                handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
        if not reached:
            raise Mismatch(
                f"Dropout reached none of the network's {len(layers)} layers with weights: it is put before "
                "convolutions and linear layers that run as modules. Give the network before it is compiled or traced."
            )


def shared_shape(module: nn.Module, x: Tensor) -> tuple[int, ...]:
    """The shape of what is drawn for the input of a weight layer: 1 along the axis of images."""
    if isinstance(module, CONVOLUTIONS):
        return (1, *x.shape[1:]) if x.ndim == module.weight.ndim else tuple(x.shape)
    return (*(1 for _ in x.shape[:-1]), x.shape[-1])


def drawn(shape: tuple[int, ...], rate: float, generator: torch.Generator) -> Bool[Tensor, "..."]:
    """What is dropped. Four decisions are read off each random number of 64 bits, which takes a fifth of the time."""
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=generator.device)
    numbers = bits.random_(-(2**63), None, generator=generator).view(torch.int16)[:count]
    return (numbers < round(rate * LEVELS) - LEVELS // 2).view(shape)


class MCDropout(Detector):
    """The variance, over passes with dropout, of the maximum softmax probability.

    Each pass records the largest probability at each pixel, whichever class has it; its variance over the passes (the
    mean squared deviation) is the pixel's score and the largest of these the image's (DAAIN, section 4.1).

    A score costs `passes` forward passes, on top of the one that makes the prediction; maps cost as many again. Of the
    passes only running moments are kept, unless a gradient is asked for. The seed is no secret: an attacker who has the
    network can follow the score's gradient.

    Args:
        rate: the share of inputs dropped before each weight layer, as in the paper, which fine-tunes the network with
            it for 30 epochs first; see `Dropout`. At 0 every score is 0.
        passes: how many sub-networks are asked.
        pool: over the pixels of a segmentation: `max`, as in the paper, or `mean`.
        seed: of the draws. They depend on the size of the images, and on nothing else of them.
    """

    name = "mc_dropout"
    learns = False

    def __init__(
        self, rate: float = 0.1, passes: int = 10, pool: Literal["max", "mean"] = "max", seed: int = 0
    ) -> None:
        super().__init__()
        if passes < 2:
            raise ValueError(f"A variance needs at least 2 passes, not {passes!r}")
        if pool not in ("max", "mean"):
            raise ValueError(f"pool must be 'max' or 'mean', not {pool!r}")
        self.look = Dropout(rate)
        self.draws = passes
        self.passes = passes + 1
        self.pool = pool
        self.seed = seed

    def forward(self, observation: Observation) -> Scores:
        each = self.variance(observation).flatten(1)
        return each.amax(1) if self.pool == "max" else each.mean(1)

    def maps(self, observation: Observation) -> Maps | None:
        return self.variance(observation) if observation.output.ndim == 4 else None

    def variance(self, observation: Observation) -> Float[Tensor, "n *hw"]:
        """The variance of each prediction's confidence: (n, 1) for a classifier, (n, h, w) for a segmentation network.

        Welford's recurrence, so that equal passes give exactly 0 and no pass is kept.
        """
        generator = torch.Generator().manual_seed(self.seed)
        mean = deviation = torch.zeros((), device=observation.images.device)
        for number in range(1, self.draws + 1):
            # With a generator the observation does not remember the look, nor its logits.
            confidence = observation.look(self.look, generator).output.softmax(1).amax(1)
            step = confidence - mean
            mean = mean + step / number
            deviation = deviation + step * (confidence - mean)
        variance = deviation / self.draws
        return variance if variance.ndim > 1 else variance[:, None]

    def extra_repr(self) -> str:
        return f"rate={self.look.rate}, passes={self.draws}, pool={self.pool!r}, seed={self.seed}"


def mc_dropout(
    anatomy: Anatomy, *, rate: float = 0.1, passes: int = 10, pool: Literal["max", "mean"] = "max", seed: int = 0
) -> MCDropout:
    """The detector for any backbone with convolutions or linear layers."""
    return MCDropout(rate, passes, pool, seed)
