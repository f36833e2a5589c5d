"""GD-UAP: one delta for all images, made from a network and hardly any data (Mopuri et al. 2018, arXiv:1801.08092).

The delta raises the activations of many layers at once, so that whatever the image says is drowned. It climbs by the
one engine: a shared delta in an Linf ball, Adam, and the sum of the activations' log norms as the objective. What is
special is around the steps: other images at every step, a delta that is halved when it is stuck at the ball's border,
and validation on substitute images. Made on one network and applied to another's images, it is transferred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pydantic
import torch
from jaxtyping import Float
from torch import Tensor

from inlier.anatomy import Anatomy
from inlier.attacks.constraints import LinfBall, SharedDelta
from inlier.attacks.engine import Attack, AttackResult, State
from inlier.attacks.objectives import fooled, log_norms, most_likely
from inlier.attacks.steppers import Adam, SignStep
from inlier.backbones.base import Backbone
from inlier.errors import Mismatch
from inlier.files import read_tensors, write_tensors
from inlier.images import ImageSource, as_source, check_images
from inlier.probe import Probe
from inlier.readers import ActivationNorms
from inlier.types import Images, LabelMaps, Progress

__all__ = ["PRIORS", "Making", "Prior", "UniversalDelta", "Validation", "gd_uap"]

Prior = Literal["none", "gaussian", "data"]
"""What the maker knows of the data: nothing, its range, or images without labels."""

PRIORS: tuple[Prior, ...] = ("none", "gaussian", "data")

FORMAT_VERSION = 1
STUCK_SHARE, STUCK_CHANGE = 0.5, 1e-5
"""Stuck is a delta with more than this share of its entries at the border, if the share changed by less than that."""
SUBSTITUTES = 16
"""Images to validate on, where none are given."""
POOL_BYTES = 2**28
"""What the images of the data prior may take in memory."""


class Validation(pydantic.BaseModel):
    """What a delta did to the substitute images.

    Args:
        iteration: after how many steps.
        objective: the sum of log norms at the last step, averaged over its images; None before the first.
        fooled: mean share of the prediction that changed, pixels or images, in [0, 1].
        saturated: share of the delta's entries at the ball's border.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    iteration: int
    objective: float | None
    fooled: float
    saturated: float


class Making(pydantic.BaseModel):
    """How a delta was made: every setting, and what came of it on the way.

    Args:
        backbone: fingerprint of the network it was made on.
        validated_on: what the substitute images were.
        validations: in order; the first is that of the random start, which is never kept.
        halvings: iterations after which the delta was halved.
        kept: the iteration whose delta this is.
        stopped: `patience` if validations no longer rose, `iterations` at the cap, `not yet` while it is being made.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    format_version: int = FORMAT_VERSION
    inlier_version: str
    method: Literal["gd_uap"] = "gd_uap"
    backbone: str
    prior: Prior
    taps: tuple[str, ...]
    size: tuple[int, int]
    channels: int
    eps: float
    step_size: float
    iterations: int
    batch_size: int
    validate_every: int
    patience: int
    seed: int
    validated_on: str
    validations: tuple[Validation, ...]
    halvings: tuple[int, ...]
    kept: int
    stopped: Literal["patience", "iterations", "not yet"]


@dataclass(frozen=True, eq=False)
class UniversalDelta:
    """One change for all images of a size, at most `eps` a value, in units of [0, 1], and how it was made."""

    delta: Float[Tensor, "1 c h w"]
    made: Making

    @property
    def eps(self) -> float:
        """The largest change of a value, in units of [0, 1]."""
        return self.made.eps

    def __call__(self, images: Images) -> Images:
        """The attacked images, clipped to [0, 1].

        Raises:
            Mismatch: images of another size, since a delta that is resized is another one.
        """
        if images.shape[1:] != self.delta.shape[1:]:
            raise Mismatch(
                f"The delta is for images of (channels, height, width) {tuple(self.delta.shape[1:])}, and "
                f"{tuple(images.shape[1:])} came. Resize the images, or make a delta of their size: any network can be "
                "asked for any size it takes."
            )
        return SharedDelta().images(self.delta.to(images), images)

    def attack(self, probe: Probe, images: Images, *, labels: LabelMaps | None = None) -> AttackResult:
        """What becomes of images, as of any attack of the engine; nothing is optimised, so that no move is made.

        Raises:
            Mismatch: as of a call.
        """
        alone = Attack(LinfBall(self.eps), SignStep(self.eps), 1, stop=fooled(0.0))  # which is so where it starts
        found = alone(probe, images, labels=labels, initial=self(images))
        return replace(found, config=self.made.model_dump(mode="json"))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all."""
        write_tensors(Path(path), {"delta": self.delta}, {"made": self.made.model_dump_json()})

    @classmethod
    def load(cls, path: str | Path) -> UniversalDelta:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            Mismatch: it holds no delta, one of a newer format, or one that is not what the file says of it.
        """
        tensors, metadata = read_tensors(Path(path))
        if set(tensors) != {"delta"} or "made" not in metadata:
            raise Mismatch(f"'{path}' is a safetensors file but holds no universal delta; make one with `inlier uap`")
        try:
            made = Making.model_validate_json(metadata["made"])
        except pydantic.ValidationError as error:
            raise Mismatch(f"What '{path}' says of its delta is damaged or of another inlier: {error}") from error
        delta = tensors["delta"]
        if made.format_version != FORMAT_VERSION:
            raise Mismatch(
                f"'{path}' is of format {made.format_version}, this inlier reads {FORMAT_VERSION}; update it"
            )
        shape = (1, made.channels, *made.size)
        if tuple(delta.shape) != shape or not delta.abs().max() <= delta.new_tensor(made.eps):
            raise Mismatch(
                f"'{path}' is damaged: it says {shape} within {made.eps:g}, and holds {tuple(delta.shape)} within "
                f"{delta.abs().max():g}. Make the delta again."
            )
        return cls(delta, made)


def gd_uap(
    backbone: Backbone,
    size: tuple[int, int],
    *,
    prior: Prior = "gaussian",
    images: Images | ImageSource | None = None,
    substitutes: Images | ImageSource | None = None,
    taps: str | Sequence[str] = "conv",
    eps: float = 10 / 255,
    step_size: float = 0.1 / 255,
    iterations: int = 10_000,
    batch_size: int = 1,
    validate_every: int = 400,
    patience: int = 10,
    channels: int = 3,
    seed: int = 0,
    progress: Progress | None = None,
    told: Callable[[UniversalDelta], None] | None = None,
) -> UniversalDelta:
    """Make one delta that fools a network on most images, without labels and, but for one prior, without images.

    It raises the sum over taps of log ||activation||_2 by Adam from a uniform start, within an Linf ball. Where more
    than half of the delta's entries are at the border and that share no longer changes, the delta is halved. It is
    validated every `validate_every` steps after the last validation or halving, and before a halving if half as many
    have gone by; the delta that fools most substitutes is kept, the later one of two equal ones.

    Source: Mopuri et al. 2018 (arXiv:1801.08092), section 3; the numbers are those of the authors' code.

    Differs from it: images are clipped to [0, 1]; activations' norms are an image's own, not a batch's; Gaussian images
    are drawn anew at every step; images of the data prior are drawn one by one, not in runs of neighbours.

    Args:
        backbone: the network it is made on; for a transferred attack not the one that is attacked.
        size: (h, w) of the images that the delta is for.
        prior: `none` adds the delta to the image that the network sees as zeros, `gaussian` to Gaussian images with the
            data's mean and range, `data` to clean images.
        images: clean ones of `size`, for the prior `data` alone. About 250 MB of them, drawn at random, are held.
        substitutes: images of `size` to validate on; never those that the attack is evaluated on. By default a
            quarter of `images`, at most 16, which the delta then does not see; without images 16 that are drawn.
        taps: whose activations are raised, as in `Anatomy.select`; by default the outputs of all convolutions.
        step_size: Adam's, in units of [0, 1].
        iterations: cap on the steps; the authors' is 40,000.
        batch_size: images a step; the prior `none` has one image alone.
        patience: stop after so many validations that fooled less than the best before.
        seed: of the start and all that is drawn.
        progress: told of every step.
        told: of the best so far after each validation; to save it, so that nothing is lost when the process ends.

    Raises:
        ValueError: settings that cannot be, images with a prior that takes none or the other way round, images of
            another size, or taps from which no gradient leads to the images.

    >>> from inlier.backbones.base import Backbone, Classification
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> made = gd_uap(Backbone(network, Classification(("cat", "dog"))), (8, 8), iterations=3)
    >>> made(torch.full((5, 3, 8, 8), 0.5)).shape
    torch.Size([5, 3, 8, 8])
    >>> made.made.taps
    ('0',)
    """
    check(prior, images is not None, iterations, batch_size, validate_every, patience)
    generator = torch.Generator().manual_seed(seed)
    shape = (channels, *size)
    shown: Images | None = None
    validated_on = "given images"
    if images is not None:
        shown = drawn_from(images, shape, generator)
        if substitutes is None:
            held = min(SUBSTITUTES, len(shown) // 4)
            substitutes, shown = (shown[:held], shown[held:]) if held else (shown, shown)
            validated_on = "held-out images" if held else "the same images"
    elif substitutes is None:
        substitutes = gaussian_images(backbone, shape, SUBSTITUTES, generator)
        validated_on = "Gaussian images"
    reader = ActivationNorms(list(Anatomy.of(backbone, size, channels).select(taps)))
    probe, trial = Probe(backbone, [reader]), Trial(backbone, drawn_from(substitutes, shape, generator))
    attack = Attack(LinfBall(eps), Adam(step_size), iterations, SharedDelta(), start="random")
    pictures = pictures_of(prior, backbone, shown, shape, batch_size, generator)
    place = torch.zeros(1, *shape, device=backbone.mean.device)
    delta = attack.parametrisation.draw(place, attack.constraint, generator)

    best = delta
    validations = [Validation(iteration=0, objective=None, fooled=trial.fooled(delta), saturated=share(delta, eps))]
    halvings: list[int] = []
    kept, most, misses, waited, saturated = 0, -1.0, 0, 0, 0.0
    stopped: Literal["patience", "iterations", "not yet"] = "not yet"

    def result() -> UniversalDelta:
        made = Making(
            inlier_version=version("inlier"),
            backbone=backbone.fingerprint(),
            prior=prior,
            taps=tuple(str(tap) for tap in reader.taps),
            size=size,
            channels=channels,
            eps=eps,
            step_size=step_size,
            iterations=iterations,
            batch_size=batch_size,
            validate_every=validate_every,
            patience=patience,
            seed=seed,
            validated_on=validated_on,
            validations=tuple(validations),
            halvings=tuple(halvings),
            kept=kept,
            stopped=stopped,
        )
        return UniversalDelta(best.cpu(), made)

    state: State | None = None
    for iteration in range(1, iterations + 1):
        move = attack.move(probe, next(pictures), log_norms(reader), delta, state, step=iteration - 1)
        if iteration == 1 and torch.equal(move.parameters, delta):
            raise ValueError("No gradient leads from the taps to the images: zeros alone pass there. Name other taps.")
        delta, state = move.parameters, move.state
        before, saturated = saturated, share(delta, eps)
        stuck = saturated > STUCK_SHARE and abs(saturated - before) < STUCK_CHANGE
        waited += 1
        last = iteration == iterations
        if waited >= validate_every or (stuck and 2 * waited > validate_every) or last:
            waited = 0
            fooled = trial.fooled(delta)
            misses = 0 if fooled > most else misses + (fooled < most)
            if fooled >= most:
                best, kept, most = delta, iteration, fooled
            objective = move.values[0].mean().item()
            validations.append(Validation(iteration=iteration, objective=objective, fooled=fooled, saturated=saturated))
            if misses == patience:
                stopped = "patience"
            elif last:
                stopped = "iterations"
            if told is not None:
                told(result())
        if progress is not None:
            progress("gd_uap", iteration if stopped == "not yet" else iterations, iterations)
        if stopped != "not yet":
            break
        if stuck:
            delta, waited = delta / 2, 0
            halvings.append(iteration)
    return result()


class Trial:
    """Substitute images and what the network says of them as they are."""

    def __init__(self, backbone: Backbone, images: Images) -> None:
        self.backbone = backbone
        self.images = images
        with torch.no_grad():
            self.before = [most_likely(backbone(image.to(backbone.mean.device))) for image in torch.split(images, 1)]

    @torch.no_grad()
    def fooled(self, delta: Tensor) -> float:
        """The share of the prediction that `delta` changes, averaged over images."""
        changed = [
            (most_likely(self.backbone(SharedDelta().images(delta, image.to(delta)))) != before).float().mean().item()
            for image, before in zip(torch.split(self.images, 1), self.before, strict=True)
        ]
        return sum(changed) / len(changed)


def share(delta: Tensor, eps: float) -> float:
    """Of the delta's entries, how many are at the border of the ball."""
    return (delta.abs() >= delta.new_tensor(eps)).float().mean().item()


def pictures_of(
    prior: Prior,
    backbone: Backbone,
    shown: Images | None,
    shape: tuple[int, int, int],
    batch_size: int,
    generator: torch.Generator,
) -> Iterator[Images]:
    """The images of one step after another, for ever."""
    while True:
        if shown is not None:
            yield shown[torch.randint(len(shown), (batch_size,), generator=generator)]
        elif prior == "gaussian":
            yield gaussian_images(backbone, shape, batch_size, generator)
        else:
            yield middle(backbone, shape[0]).expand(1, *shape)


def middle(backbone: Backbone, channels: int) -> Float[Tensor, "1 c 1 1"]:
    """The colour that a network sees as zeros, in the images' order of channels; grey where it subtracts nothing.

    Differs from the source there: black is what such a network sees as zeros, and half of a delta would be clipped.
    """
    mean = backbone.mean.flatten().cpu()
    mean = (mean.flip(0) if backbone.bgr else mean).expand(channels)
    return mean.where((mean > 0) & (mean < 1), 0.5).view(1, -1, 1, 1)


def gaussian_images(backbone: Backbone, shape: tuple[int, int, int], count: int, generator: torch.Generator) -> Images:
    """White noise around the data's mean, of the largest spread with which about 95 % of it stay in [0, 1]."""
    mean = middle(backbone, shape[0])
    std = torch.minimum(mean, 1 - mean) / 2
    return (mean + std * torch.randn((count, *shape), generator=generator)).clamp(0, 1)


def drawn_from(images: Images | ImageSource, shape: tuple[int, int, int], generator: torch.Generator) -> Images:
    """As many images as `POOL_BYTES` hold, each as likely as any other (reservoir sampling).

    Raises:
        ValueError: images of another size.
    """
    room = max(SUBSTITUTES, POOL_BYTES // (4 * shape[0] * shape[1] * shape[2]))
    pool: list[Tensor] = []
    seen = 0
    for batch in as_source(images).batches(8):
        check_images(batch.images)
        if batch.images.shape[1:] != shape:
            raise ValueError(
                f"The delta is to be for images of (channels, height, width) {shape}, and one of "
                f"{tuple(batch.images.shape[1:])} came ({batch.names[0]}). Resize the images as they are read."
            )
        for image in batch.images.float():
            seen += 1
            if len(pool) < room:
                pool.append(image.cpu().clone())
            elif (place := int(torch.randint(seen, (), generator=generator))) < room:
                pool[place] = image.cpu().clone()
    return torch.stack(pool)


def check(prior: Prior, has_images: bool, iterations: int, batch_size: int, validate_every: int, patience: int) -> None:
    if prior not in PRIORS:
        raise ValueError(f"prior is one of {', '.join(PRIORS)}, not {prior!r}")
    if has_images != (prior == "data"):
        what = "needs clean images" if prior == "data" else "looks at no images"
        raise ValueError(f"The prior '{prior}' {what}; give images with the prior 'data' and with no other")
    least: dict[str, Any] = {
        "iterations": iterations, "batch_size": batch_size, "validate_every": validate_every, "patience": patience
    }  # fmt: skip
    wrong = [f"{name}={value}" for name, value in least.items() if value < 1]
    if wrong:
        raise ValueError(f"iterations, batch_size, validate_every and patience are at least 1, not {', '.join(wrong)}")
