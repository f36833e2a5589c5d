"""A backbone is a user's trained model made safe to look into.

It takes images in [0, 1] as they come from the file, does the resizing and normalisation itself (differentiably, so
that an attack starts at the real input), stays in eval mode, and a *task* turns what the model returns into logits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inlier.types import Images, Logits

__all__ = ["Backbone", "Classification", "Segmentation", "Task"]


class Task:
    """What the raw output means.

    Args:
        classes: names of the outputs, in order.
        void: name of the class that is no class; its pixels are left out of metrics.
        select: picks the logits out of a raw output that is not a tensor (a dict, a tuple, two heads).
    """

    def __init__(
        self, classes: Sequence[str], *, void: str = "void", select: Callable[[Any], Tensor] | None = None
    ) -> None:
        self.classes = tuple(classes)
        self.void = self.classes.index(void) if void in self.classes else None
        self.select = select

    def logits(self, raw: Any, size: tuple[int, int]) -> Logits:
        """The logits in `raw`, for images of `size` (h, w)."""
        logits = self.select(raw) if self.select is not None else raw
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"The model returned {type(logits).__name__}, not a tensor of logits. "
                "Give the task a select= function that picks them out."
            )
        if logits.shape[1] != len(self.classes):
            raise ValueError(
                f"The model returned {logits.shape[1]} logits for {len(self.classes)} class names ({self.classes})."
            )
        return logits

    @property
    def is_dense(self) -> bool:
        """Whether there is a prediction a pixel."""
        raise AttributeError(f"{type(self).__name__} must say whether it is dense")


class Classification(Task):
    """One class an image: logits (n, classes)."""

    is_dense = False


class Segmentation(Task):
    """One class a pixel: logits (n, classes, h, w), brought to the image's size bilinearly where they are smaller."""

    is_dense = True

    def logits(self, raw: Any, size: tuple[int, int]) -> Logits:
        logits = super().logits(raw, size)
        if logits.shape[-2:] != size:
            logits = nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits


class Backbone(nn.Module):
    """A trained network with its preprocessing and its task. Always in eval mode; parameters need no gradient.

    Args:
        network: the trained module. It is neither copied nor changed, but for eval mode and `requires_grad`.
        task: what its output means.
        mean, std: of each channel *as the network sees it*; `prepare` computes (x - mean) / std for x in [0, 1].
        bgr: whether the network was trained on blue-green-red channels.
        size: (h, w) the images are resized to (bilinear, antialiased) before normalisation; by default they are not.
    """

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        bgr: bool = False,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or any(value <= 0 for value in std):
            raise ValueError(f"mean and std need one value a channel and std > 0, not mean={mean}, std={std}")
        self.network = network.requires_grad_(False)
        self.task = task
        self.bgr = bgr
        self.size = size
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        super().train(False)

    def train(self, mode: bool = True) -> Backbone:
        """Stay in eval mode: batch statistics of the image at hand would change what is monitored."""
        return self

    def prepare(self, images: Images) -> Tensor:
        """Resize, order channels, normalise; differentiable."""
        if self.size is not None and images.shape[-2:] != self.size:
            images = nn.functional.interpolate(
                images, size=self.size, mode="bilinear", align_corners=False, antialias=True
            )
        if self.bgr:
            images = images.flip(1)
        return (images - self.mean) / self.std

    def core(self, prepared: Tensor) -> Any:
        """The network's raw output."""
        return self.network(prepared)

    def forward(self, images: Images) -> Logits:
        """Logits for images in [0, 1]."""
        return self.task.logits(self.core(self.prepare(images)), (images.shape[-2], images.shape[-1]))

    def predict(self, images: Images) -> Tensor:
        """The most likely class: (n,) or (n, h, w)."""
        logits: Tensor = self(images)
        return logits.max(1).indices  # as argmax, several times faster on dense logits

    def fingerprint(self) -> str:
        """SHA-256 over preprocessing, classes and weights: what an artefact was fitted to."""
        digest = hashlib.sha256()
        settings = (self.mean.flatten().tolist(), self.std.flatten().tolist(), self.bgr, self.size, self.task.classes)
        digest.update(repr(settings).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
