"""How well scores tell anomalous images from clean ones, and predictions from labels.

Larger scores are more anomalous; tied scores count as tied, never as a lucky order. The score metrics look at the order
of the scores only. Void pixels are those whose *label* is void: they are left out, while a void *prediction* on any
other pixel is an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from numpy.typing import NDArray
from scipy.stats import beta
from torch import Tensor

from inlier.types import LabelMaps

__all__ = [
    "ConfusionMatrix", "Positive", "PrecisionRecall", "Rates", "Roc", "Values", "aupr", "auroc", "changed_iou",
    "changed_share", "fpr_at_tpr", "image_iou", "overlaps", "pooled_mean_iou", "precision_recall_curve",
    "rate_interval", "rates_at", "roc_curve", "scores_of",
]  # fmt: skip

Values: TypeAlias = Tensor | NDArray[np.floating] | Sequence[float]
Positive: TypeAlias = Literal["anomalous", "clean"]


def auroc(clean: Values, anomalous: Values) -> float:
    """The probability that an anomalous image scores higher than a clean one; a tie counts one half.

    Raises:
        ValueError: a side is empty or holds nan (as in all score metrics here).
    """
    negatives, positives = np.sort(scores_of(clean, "clean")), scores_of(anomalous, "anomalous")
    twice_below = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
    return int(twice_below.sum()) / (2 * len(negatives) * len(positives))


def aupr(clean: Values, anomalous: Values, positive: Positive = "anomalous") -> float:
    """Average precision: precision at each threshold, weighted by the recall it adds.

    `positive` says which images are to be found; it matters, and so does the share of each kind.
    """
    negatives, positives = sides(clean, anomalous, positive)
    thresholds, found = np.unique(-positives, return_counts=True)
    true = found.cumsum()
    false = np.searchsorted(np.sort(-negatives), thresholds, "right")
    return float((found * (true / (true + false))).sum() / len(positives))


def fpr_at_tpr(clean: Values, anomalous: Values, tpr: float = 0.95, positive: Positive = "anomalous") -> float:
    """The share of negatives taken for positives by the strictest threshold that finds a share `tpr` of the positives.

    Raises:
        ValueError: also if `tpr` is not in (0, 1].
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must be above 0 and at most 1, not {tpr!r}.")
    negatives, positives = sides(clean, anomalous, positive)
    count = len(positives)
    needed = math.ceil(tpr * count)
    if (needed - 1) / count >= tpr:  # the product was rounded upwards
        needed -= 1
    threshold = np.sort(positives)[count - needed]
    return float((negatives >= threshold).mean())


class Rates(NamedTuple):
    """What a threshold that was set beforehand does, as shares in [0, 1].

    Args:
        tpr: of the anomalous images, those flagged.
        fpr: of the clean images, those flagged.
    """

    tpr: float
    fpr: float


def rates_at(threshold: float, clean: Values, anomalous: Values) -> Rates:
    """The true and the false positive rate of a fixed threshold: flagged is what scores *above* it.

    That is how `Calibration.threshold` is meant: it is the largest score that is not flagged.

    Raises:
        ValueError: also if the threshold is nan.

    >>> rates_at(2.0, clean=[1.0, 2.0, 2.5, 0.0], anomalous=[2.0, 3.0])
    Rates(tpr=0.5, fpr=0.25)
    """
    if math.isnan(threshold):
        raise ValueError("The threshold is nan: nothing lies above it. Give the threshold of a calibration.")
    negatives, positives = scores_of(clean, "clean"), scores_of(anomalous, "anomalous")
    return Rates(float((positives > threshold).mean()), float((negatives > threshold).mean()))


class Roc(NamedTuple):
    """The points of a receiver operating characteristic, from (0, 0) to (1, 1).

    Args:
        fpr, tpr: what `rates_at` gives for each threshold.
        thresholds: falling; images above one are flagged. The last, minus infinity, flags everything.
    """

    fpr: Float64[Tensor, " points"]
    tpr: Float64[Tensor, " points"]
    thresholds: Float64[Tensor, " points"]


def roc_curve(clean: Values, anomalous: Values) -> Roc:
    """Every pair of rates that some threshold reaches; tied scores are one step, and slanted where both kinds tie.

    The straight lines between the points enclose `auroc`.
    """
    negatives, positives = scores_of(clean, "clean"), scores_of(anomalous, "anomalous")
    levels = np.unique(np.r_[negatives, positives])[::-1]
    # Differs from scikit-learn, which flags from a threshold on, and so has the same points one threshold further up.
    fpr, tpr = (
        np.r_[(len(side) - np.searchsorted(np.sort(side), levels, "right")) / len(side), 1.0]
        for side in (negatives, positives)
    )
    return Roc(tensor_of(fpr), tensor_of(tpr), tensor_of(np.r_[levels, -np.inf]))


class PrecisionRecall(NamedTuple):
    """The points of a precision-recall curve, recall rising to 1.

    Args:
        precision: the share of what is found that is positive.
        recall: the share of the positives that is found.
        thresholds: of each point; found is what scores at least as high, or at most, if clean images are to be found.
    """

    precision: Float64[Tensor, " points"]
    recall: Float64[Tensor, " points"]
    thresholds: Float64[Tensor, " points"]


def precision_recall_curve(clean: Values, anomalous: Values, positive: Positive = "anomalous") -> PrecisionRecall:
    """A point for every score that occurs; the area under the steps that lead up to the points is `aupr`."""
    # Differs from scikit-learn, which adds precision 1 at recall 0, where nothing is found and precision is undefined.
    negatives, positives = sides(clean, anomalous, positive)
    levels = np.unique(np.r_[negatives, positives])[::-1]
    true, false = (len(side) - np.searchsorted(np.sort(side), levels, "left") for side in (positives, negatives))
    thresholds = levels if positive == "anomalous" else -levels
    return PrecisionRecall(tensor_of(true / (true + false)), tensor_of(true / len(positives)), tensor_of(thresholds))


def rate_interval(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Clopper-Pearson interval of a rate of which `hits` of `count` independent images were seen.

    Nothing seen, `count` = 0, leaves (0, 1). (Clopper & Pearson, Biometrika 26, 1934.)

    Raises:
        ValueError: not 0 <= hits <= count, or `confidence` not in (0, 1).

    >>> rate_interval(0, 55)[1] < 0.066
    True
    """
    if not 0 <= hits <= count:
        raise ValueError(f"Expected 0 <= hits <= count, not hits={hits} and count={count}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, both excluded, not {confidence!r}.")
    miss = (1 - confidence) / 2
    low = float(beta.ppf(miss, hits, count - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - miss, hits + 1, count - hits)) if hits < count else 1.0
    return low, high


class ConfusionMatrix:
    """Counts of (label, predicted class) over all images given to `update`; void labels are left out.

    Args:
        classes: number of classes, that of void included if the network predicts it.
        void: the label that is no class. It may lie outside the classes, as 255 does.
    """

    def __init__(self, classes: int, void: int | None = None) -> None:
        self.classes = classes
        self.void = void
        self.counts = torch.zeros(classes, classes, dtype=torch.long)

    def update(self, predicted: LabelMaps, labels: LabelMaps) -> None:
        """Count the pixels (or images) of a batch.

        Raises:
            ValueError: the shapes differ, or a class lies outside 0 ... classes - 1 where the label is not void.
        """
        if predicted.shape != labels.shape:
            raise ValueError(f"Predictions {tuple(predicted.shape)} and labels {tuple(labels.shape)} differ in shape.")
        predicted, labels = predicted.detach().cpu().long(), labels.detach().cpu().long()
        if self.void is not None:
            valid = labels != self.void
            predicted, labels = predicted[valid], labels[valid]
        for name, values in (("predicted class", predicted), ("label", labels)):
            wrong = values[(values < 0) | (values >= self.classes)]
            if wrong.numel():
                raise ValueError(
                    f"A {name} is {int(wrong[0])}; expected 0 to {self.classes - 1}, or void={self.void} as a label."
                )
        pairs = (labels * self.classes + predicted).flatten()
        self.counts += pairs.bincount(minlength=self.classes**2).view(self.classes, self.classes)

    def iou(self) -> Float64[Tensor, " classes"]:
        """Intersection over union of each class; nan for void and for a class neither labelled nor predicted."""
        hits = self.counts.diagonal().double()
        ratio = hits / (self.counts.sum(0) + self.counts.sum(1) - hits)  # 0 / 0 is nan
        if self.void is not None and 0 <= self.void < self.classes:
            ratio[self.void] = torch.nan
        return ratio

    def mean_iou(self) -> float:
        """The mean over the classes that have an intersection over union; nan if none has."""
        return self.iou().nanmean().item()

    def pixel_accuracy(self) -> float:
        """The share of pixels predicted right; nan before any was counted."""
        return (self.counts.diagonal().sum() / self.counts.sum().double()).item()


def changed_share(
    prediction_a: LabelMaps, prediction_b: LabelMaps, valid: Bool[Tensor, "n *hw"] | None = None
) -> Float64[Tensor, " n"]:
    """The share of each image's valid pixels whose predicted class differs; nan for an image without valid pixels.

    Its mean over images is AAcc, the attack accuracy per pixel, of DAAIN (von Baußnern et al. 2021, Table 1), between
    the predictions for the original and for the changed images.

    Raises:
        ValueError: the shapes differ.
    """
    masks = valid_pixels(prediction_a, prediction_b, valid)
    changed = ((prediction_a != prediction_b) & masks).view(len(masks), -1)
    return changed.sum(1).double() / masks.view(len(masks), -1).sum(1)


def image_iou(
    prediction_a: LabelMaps, prediction_b: LabelMaps, classes: int, valid: Bool[Tensor, "n *hw"] | None = None
) -> Float64[Tensor, "n classes"]:
    """Intersection over union of each class in each image; nan for a class that neither map has there.

    Either map may be labels; then `valid` leaves the void ones out.

    Raises:
        ValueError: as `overlaps`.
    """
    hits, union = overlaps(prediction_a, prediction_b, classes, valid).double().unbind(1)
    return hits / union  # 0 / 0 is nan


def overlaps(
    prediction_a: LabelMaps, prediction_b: LabelMaps, classes: int, valid: Bool[Tensor, "n *hw"] | None = None
) -> Int64[Tensor, "n 2 classes"]:
    """Pixels of intersection (row 0) and union (row 1) of each class in each image; see `image_iou`.

    Raises:
        ValueError: the shapes differ, or a valid pixel's class lies outside 0 ... classes - 1.
    """
    masks = valid_pixels(prediction_a, prediction_b, valid)
    hits, one, other = (
        class_counts(maps, where, classes)
        for maps, where in (
            (prediction_a, masks & (prediction_a == prediction_b)),
            (prediction_a, masks),
            (prediction_b, masks),
        )
    )
    return torch.stack([hits, one + other - hits], dim=1)


def pooled_mean_iou(overlap: Int64[Tensor, "r n 2 *out classes"]) -> Float64[Tensor, "r *out"]:
    """Mean IoU of r samples of n images, from their pixels of intersection and union.

    Pixels are added up over images before intersections are divided by unions, as over a whole test set; the mean is
    over the classes that any label or prediction of the sample has.
    """
    hits, union = overlap.sum(1).double().unbind(1)
    return (hits / union).nanmean(-1)  # 0 / 0 is nan, and no class


def class_counts(maps: LabelMaps, where: Bool[Tensor, "n *hw"], classes: int) -> Int64[Tensor, "n classes"]:
    """How many of the pixels in the mask each image has of each class."""
    chosen = maps[where]
    if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < classes:
        raise ValueError(
            f"Classes run from {int(chosen.min())} to {int(chosen.max())}; expected 0 to {classes - 1}. "
            "Leave void labels out with valid=."
        )
    n = len(maps)
    offsets = classes * torch.arange(n, device=maps.device).view(n, *[1] * (maps.ndim - 1))
    return (maps.long() + offsets)[where].bincount(minlength=n * classes).view(n, classes)


def changed_iou(
    prediction_a: LabelMaps, prediction_b: LabelMaps, classes: int, valid: Bool[Tensor, "n *hw"] | None = None
) -> Float64[Tensor, " n"]:
    """One minus the mean intersection over union of two predictions for each image: 0 where they agree, at most 1.

    The mean is over the classes that either prediction has among the image's valid pixels, so that a small object that
    vanishes weighs as much as a large one. An image without valid pixels has nan. The mean over images is AIoU of DAAIN
    (von Baußnern et al. 2021, Table 1).

    Raises:
        ValueError: as `image_iou`.
    """
    # The paper does not define AIoU: "average intersection-over-union between the original output and perturbed
    # output". There it grows with the damage (VerticalFlip, which changes most pixels, has the most), hence one minus
    # the IoU. That the mean is taken image by image, and over the classes present, is our reading: classes that
    # neither prediction has say nothing, and counted as 0 they would give an unchanged image a damage above 0.
    return 1 - image_iou(prediction_a, prediction_b, classes, valid).nanmean(1)


def valid_pixels(prediction_a: LabelMaps, prediction_b: LabelMaps, valid: Tensor | None) -> Bool[Tensor, "n *hw"]:
    """The mask, all of the pixels where none is given; the shapes agree."""
    masks = torch.ones_like(prediction_a, dtype=torch.bool) if valid is None else valid
    if not prediction_a.shape == prediction_b.shape == masks.shape:
        raise ValueError(
            f"Predictions {tuple(prediction_a.shape)} and {tuple(prediction_b.shape)} and the mask of valid pixels "
            f"{tuple(masks.shape)} must have one shape."
        )
    return masks


def sides(clean: Values, anomalous: Values, positive: Positive) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Negatives and positives, such that positives ought to score higher."""
    if positive not in ("anomalous", "clean"):
        raise ValueError(f"positive must be 'anomalous' or 'clean', not {positive!r}.")
    low, high = scores_of(clean, "clean"), scores_of(anomalous, "anomalous")
    return (low, high) if positive == "anomalous" else (-high, -low)


def tensor_of(values: NDArray[np.float64]) -> Float64[Tensor, " points"]:
    return torch.from_numpy(np.array(values, dtype=np.float64, order="C"))  # a copy: reversed ones have no tensor


def scores_of(values: Values, name: str) -> NDArray[np.float64]:
    """Scores as float64, of which none is missing.

    Raises:
        ValueError: they are not of shape (n,) with n >= 1, or some are nan.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"Expected {name} scores of shape (n,) with n >= 1, not {array.shape}.")
    missing = int(np.isnan(array).sum())
    if missing:
        raise ValueError(f"{missing} of {array.size} {name} scores are nan: they have no place in an order.")
    return array
