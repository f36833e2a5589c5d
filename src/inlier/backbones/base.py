"""A backbone is a user's trained model made safe to look into.

It takes images in [0, 1] as they come from the file, does the resizing and normalisation itself (differentiably, so
that an attack starts at the real input), stays in eval mode, and a *task* turns what the model returns into logits.
The network inside is the user's own object: `release` gives it back as it came.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inlier.backbones.outputs import Output
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
        network: the trained module. It is neither copied nor changed, but for eval mode and `requires_grad`, both of
            which `release` takes back.
        task: what its output means.
        mean, std: of each channel *as the network sees it*; `prepare` computes (x - mean) / std for x in [0, 1].
        bgr: whether the network was trained on blue-green-red channels.
        size: (h, w) the images are resized to (antialiased) before normalisation, or one number: what their shorter
            side becomes, with the ratio of the sides kept. By default images are not resized.
        crop: (h, w) of the centre that is kept after resizing; classifiers only, since every pixel needs an answer
            from a dense network.
        resample: the filter of the resizing. Bicubic overshoot is cut to [0, 1], as 8-bit image libraries do.

    Raises:
        ValueError: statistics that cannot be; a crop without or beyond `size`, or for a dense task.
    """

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        bgr: bool = False,
        size: tuple[int, int] | int | None = None,
        crop: tuple[int, int] | None = None,
        resample: Literal["bilinear", "bicubic"] = "bilinear",
    ) -> None:
        super().__init__()
        _check_statistics(mean, std)
        _check_sizes(size, crop)
        if crop is not None and task.is_dense:
            raise ValueError(f"A dense network must see the whole image; crop={crop} would cut some of it off")
        self._came = (
            {name: module.training for name, module in network.named_modules()},
            {name: parameter.requires_grad for name, parameter in network.named_parameters()},
        )
        self.network = network.requires_grad_(False)
        self.task = task
        self.bgr = bgr
        self.size = size
        self.crop = crop
        self.resample = resample
        place = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        self.register_buffer("mean", _per_channel(mean, place), persistent=False)
        self.register_buffer("std", _per_channel(std, place), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        super().train(False)

    def train(self, mode: bool = True) -> Backbone:
        """Stay in eval mode: batch statistics of the image at hand would change what is monitored."""
        return self

    def release(self) -> nn.Module:
        """The network as it came: each module's training mode and each parameter's `requires_grad` as before.

        Nothing else of it was ever changed. Afterwards this backbone is done with.
        """
        training, needs_gradient = self._came
        for name, module in self.network.named_modules():
            module.training = training.get(name, module.training)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(needs_gradient.get(name, parameter.requires_grad))
        return self.network

    def adapted(
        self,
        *,
        task: Task | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        bgr: bool | None = None,
        size: tuple[int, int] | int | None = None,
    ) -> Backbone:
        """The same network, not a copy of it, with another task or other preprocessing. What is None stays.

        Another `size` is the size the network gets: it takes the place of a crop, too.
        """
        other = copy.copy(self)
        other._buffers = dict(self._buffers)
        mean = self.mean.flatten().tolist() if mean is None else mean
        std = self.std.flatten().tolist() if std is None else std
        _check_statistics(mean, std)
        other.mean, other.std = _per_channel(mean, self.mean.device), _per_channel(std, self.std.device)
        other.task = task or self.task
        other.bgr = self.bgr if bgr is None else bgr
        if size is not None:
            _check_sizes(size, None)
            other.size, other.crop = size, None
        return other

    def prepare(self, images: Images) -> Tensor:
        """Resize, crop, order channels, normalise; differentiable."""
        size = self._resized_to((images.shape[-2], images.shape[-1]))
        if images.shape[-2:] != size:
            images = nn.functional.interpolate(
                images, size=size, mode=self.resample, align_corners=False, antialias=True
            )
            if self.resample == "bicubic":
                images = images.clamp(0, 1)
        if self.crop is not None:
            top, left = (size[0] - self.crop[0]) // 2, (size[1] - self.crop[1]) // 2
            images = images[..., top : top + self.crop[0], left : left + self.crop[1]]
        if self.bgr:
            images = images.flip(1)
        return (images - self.mean) / self.std

    def _resized_to(self, size: tuple[int, int]) -> tuple[int, int]:
        if self.size is None:
            return size
        if isinstance(self.size, tuple):
            return self.size
        height, width = (int(self.size * side / min(size)) for side in size)
        return height, width

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
        # What came later counts only where it is used, so that older artefacts keep their fingerprints.
        later = {
            "crop": self.crop,
            "output": self.task.select if isinstance(self.task.select, Output) else None,
            "resample": None if self.resample == "bilinear" else self.resample,
        }
        if any(value is not None for value in later.values()):
            digest.update(repr(later).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _check_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    if len(mean) != len(std) or any(value <= 0 for value in std):
        raise ValueError(f"mean and std need one value a channel and std > 0, not mean={mean}, std={std}")


def _check_sizes(size: tuple[int, int] | int | None, crop: tuple[int, int] | None) -> None:
    sides = size if isinstance(size, tuple) else (size, size)
    if any(side is not None and side < 1 for side in sides):
        raise ValueError(f"size is (height, width), or the shorter side, of 1 pixel or more, not {size}")
    if crop is not None and any(side is None or not 1 <= cut <= side for cut, side in zip(crop, sides, strict=True)):
        raise ValueError(f"crop={crop} must lie within what size={size} resizes to")


def _per_channel(values: Sequence[float], place: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=place).view(-1, 1, 1)
