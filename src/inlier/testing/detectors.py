"""What every detector promises, whatever it computes: `check_detector` tries it."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from inlier.anatomy import Anatomy, KeyRing
from inlier.backbones.base import Backbone
from inlier.detectors.base import Detector
from inlier.detectors.spec import DetectorSpec
from inlier.errors import NotFitted
from inlier.monitor import Monitor
from inlier.observation import Readings
from inlier.probe import Probe
from inlier.testing.claims import (
    ClaimFailed,
    hold,
    hooks_of,
    leaving_randomness_alone,
    require,
    require_close,
    require_equal,
)
from inlier.testing.specimens import noise, scenes, tiny_backbone
from inlier.types import Images, Scores

__all__ = ["check_detector"]

CLEAN = 40
FRESH = 7


def check_detector(
    detector: str | DetectorSpec | Callable[[Anatomy], Detector],
    *,
    backbones: Sequence[Backbone] | None = None,
    size: tuple[int, int] = (16, 16),
    differentiable: bool = True,
) -> None:
    """Try what every detector promises, on drawn images.

    Args:
        detector: a registered name, with settings if wanted, or a factory. Whether a saved monitor gives the same
            scores can be tried of a name alone, since a file holds the name.
        backbones: to try it with; by default a tiny classifier and a tiny segmentation network.
        size: (h, w) of the images.
        differentiable: False for a detector that documents that it passes no gradient to the images.

    Raises:
        ClaimFailed: tells which claims do not hold and with which values.
        LookupError, ValueError: there is no such detector, or it has no such settings.

    Example:
        >>> check_detector("mahalanobis(grid=(2, 1))")
    """
    spec = DetectorSpec.parse(detector) if isinstance(detector, str) else detector
    for backbone in backbones or (tiny_backbone("classifier"), tiny_backbone("segmentation")):
        case = Case(spec, backbone, size)
        claims = list(CLAIMS)
        if differentiable:
            claims.append(a_gradient_reaches_every_image)
        if case.detector.learns:
            claims += [an_unfitted_detector_says_so, what_is_like_no_clean_image_scores_higher]
        if isinstance(spec, DetectorSpec):
            claims += [it_bears_the_name_it_is_registered_under, a_saved_monitor_gives_the_same_scores]
        kind = "a segmentation network" if backbone.task.is_dense else "a classifier"
        hold(f"Detector '{case.detector.name}' on {kind}", claims, case)


class Case:
    """A detector fitted to clean images, with the probe that it looks through."""

    def __init__(
        self, spec: DetectorSpec | Callable[[Anatomy], Detector], backbone: Backbone, size: tuple[int, int]
    ) -> None:
        self.spec = spec
        self.backbone = backbone
        self.size = size
        self.fingerprint = backbone.fingerprint()
        self.hooks = hooks_of(backbone)
        self.anatomy = Anatomy.of(backbone, size, keys=KeyRing(seed=0))
        self.detector = self.unfitted()
        self.probe = Probe(backbone, self.detector.requires)
        self.clean = scenes(CLEAN, size, seed=0)
        self.fresh = scenes(FRESH, size, seed=1)
        self.readings = self.probe.read(self.clean, also=self.detector.measures)
        self.result = self.detector.fit(self.readings, seed=5)

    def unfitted(self) -> Detector:
        return self.spec.build(self.anatomy) if isinstance(self.spec, DetectorSpec) else self.spec(self.anatomy)

    def others(self) -> Readings:
        """Readings of clean images that are not those of the fit."""
        return self.probe.read(scenes(CLEAN - 10, self.size, seed=3), also=self.detector.measures)

    def scores(self, detector: Detector, images: Images | None = None) -> Scores:
        with torch.no_grad():
            return detector(self.probe(self.fresh if images is None else images))


def it_is_a_detector_with_a_name(case: Case) -> None:
    require(isinstance(case.detector, Detector), f"the factory made {type(case.detector).__name__}, no Detector")
    require(case.detector.name.isidentifier(), f"its name is {case.detector.name!r}; a name is letters, digits and _")


def it_bears_the_name_it_is_registered_under(case: Case) -> None:
    assert isinstance(case.spec, DetectorSpec)
    require(
        case.detector.name == case.spec.name,
        f"it is registered as '{case.spec.name}', its name is '{case.detector.name}'",
    )


def fit_returns_the_detector(case: Case) -> None:
    require(case.result is case.detector, f"fit returned {type(case.result).__name__}; end it with `return self`")


def a_reader_keeps_as_many_numbers_as_it_says(case: Case) -> None:
    with torch.no_grad():
        readings = case.probe(case.fresh).readings
    for reader in case.detector.requires:
        kept = readings[reader.name]
        origins = reader.origins()
        require(len(kept) == FRESH, f"'{reader.name}' kept {tuple(kept.shape)} of {FRESH} images")
        require(kept[0].numel() == reader.size, f"'{reader.name}' kept {kept[0].numel()} numbers, size {reader.size}")
        require(origins.shape == (reader.size,), f"origins of '{reader.name}' are {tuple(origins.shape)}")
        inside = bool(((origins >= 0) & (origins < len(reader.taps))).all())
        require(inside, f"origins of '{reader.name}' name a tap that is none of its {len(reader.taps)}")


def scores_are_one_finite_number_an_image(case: Case) -> None:
    scores = case.scores(case.detector)
    require(isinstance(scores, Tensor), f"forward returned {type(scores).__name__}, not a tensor")
    require(scores.shape == (FRESH,), f"scores of {FRESH} images have shape {tuple(scores.shape)}")
    require(scores.is_floating_point(), f"scores are {scores.dtype}")
    require(bool(scores.isfinite().all()), f"scores are {scores.tolist()}")
    require(len(set(scores.tolist())) > 1, f"all {FRESH} images score {scores[0].item():g}")


def scores_of_a_batch_are_the_scores_one_by_one(case: Case) -> None:
    one_by_one = torch.cat([case.scores(case.detector, image[None]) for image in case.fresh])
    require_close(case.scores(case.detector), one_by_one, "in a batch and alone")


def scores_do_not_depend_on_what_was_scored_before(case: Case) -> None:
    first = case.scores(case.detector)
    case.scores(case.detector, scenes(3, case.size, seed=9))
    require_equal(case.scores(case.detector), first, "after other images and before")


def scoring_changes_nothing_of_the_detector(case: Case) -> None:
    before = copy.deepcopy(case.detector.state_dict())
    case.scores(case.detector)
    for name, value in case.detector.state_dict().items():
        require_equal(value, before[name], f"'{name}' after scoring and before")


def what_is_like_no_clean_image_scores_higher(case: Case) -> None:
    clean = case.scores(case.detector, scenes(20, case.size, seed=2)).median().item()
    odd = case.scores(case.detector, noise(20, case.size, seed=2)).median().item()
    told = f"the median score of clean images is {clean:.6g}, of black-and-white noise {odd:.6g}"
    require(odd > clean, f"{told}; larger must be more anomalous")


def a_gradient_reaches_every_image(case: Case) -> None:
    fresh = case.fresh.clone().requires_grad_()
    scores = case.detector(case.probe(fresh))
    require(
        scores.requires_grad, "scores have no gradient; say check_detector(..., differentiable=False) if it is meant"
    )
    (gradient,) = torch.autograd.grad(scores.sum(), fresh)
    require(bool(gradient.isfinite().all()), "the gradient of the scores is not finite everywhere")
    without = [i for i, part in enumerate(gradient) if not (part != 0).any()]
    require(not without, f"the gradient is zero for images {without} of {FRESH}")


def a_copy_scores_the_same_and_is_fitted_apart(case: Case) -> None:
    twin = copy.deepcopy(case.detector)
    expected = case.scores(case.detector)
    require_equal(case.scores(twin), expected, "a copy and the detector")
    twin.fit(case.others(), seed=5)
    require_equal(case.scores(case.detector), expected, "the detector after its copy was fitted, and before")
    if case.detector.learns:
        same = torch.equal(case.scores(twin), expected)
        require(not same, "fitted to other images it scores the same; set `learns = False` if nothing is learnt")
    else:
        require_equal(case.scores(twin), expected, "`learns` is False, yet fit changed the scores")


def a_fit_is_fixed_by_its_seed_and_starts_anew(case: Case) -> None:
    other = case.unfitted().fit(case.others(), seed=2)
    again = other.fit(case.readings, seed=5)
    require_equal(case.scores(again), case.scores(case.detector), "fitted again to the same images with the same seed")


def the_global_random_generators_are_left_alone(case: Case) -> None:
    with leaving_randomness_alone("fit"):
        case.unfitted().fit(case.readings, seed=5)
    with leaving_randomness_alone("scoring"):
        case.scores(case.detector)


def progress_is_told_in_growing_steps(case: Case) -> None:
    told: list[tuple[int, int]] = []
    case.unfitted().fit(case.readings, seed=5, progress=lambda _, done, total: told.append((done, total)))
    right = all(0 < done <= total for done, total in told) and [done for done, _ in told] == sorted(d for d, _ in told)
    require(right, f"progress was told (done, total) as {told[:20]}")


def an_unfitted_detector_says_so(case: Case) -> None:
    try:
        scores = case.scores(case.unfitted())
    except NotFitted as error:
        require("fit" in str(error).lower(), f"NotFitted says {str(error)!r}; say that fit must be called")
    except Exception as error:
        raise ClaimFailed(f"before fit it raises {type(error).__name__}: {error}; raise NotFitted") from error
    else:
        raise ClaimFailed(f"before fit it gives scores ({scores[0].item():g}, ...); raise NotFitted")


def its_state_holds_all_it_learnt(case: Case) -> None:
    loaded = case.unfitted()
    loaded.load_state_dict(copy.deepcopy(case.detector.state_dict()))
    told = "with the state loaded into an unfitted detector"
    require_equal(case.scores(loaded), case.scores(case.detector), told)


def a_saved_monitor_gives_the_same_scores(case: Case) -> None:
    assert isinstance(case.spec, DetectorSpec)
    monitor = (
        Monitor(case.backbone, case.spec, seed=0).fit(case.clean).calibrate(false_alarm_rate=0.1, folds=2, blocks=1)
    )
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        monitor.save(Path(folder) / "monitor.inlier")
        loaded = Monitor.load(Path(folder) / "monitor.inlier", case.backbone)
        require_equal(loaded.score(case.fresh), monitor.score(case.fresh), "saved and loaded")


def maps_are_one_value_a_pixel_where_there_are_any(case: Case) -> None:
    with torch.no_grad():
        maps = case.detector.maps(case.probe(case.fresh))
    right = maps is None or maps.shape == (FRESH, *case.size)
    require(right, f"maps of {FRESH} images of {case.size} have shape {None if maps is None else tuple(maps.shape)}")


def the_backbone_is_left_as_it_was(case: Case) -> None:
    case.scores(case.detector)
    require(not case.backbone.network.training, "the network is in training mode")
    require(case.backbone.fingerprint() == case.fingerprint, "the weights have changed")
    left = [name for name in hooks_of(case.backbone) if name not in case.hooks]
    require(not left, f"hooks are left on {left}")


CLAIMS: tuple[Callable[[Case], None], ...] = (
    it_is_a_detector_with_a_name,
    fit_returns_the_detector,
    a_reader_keeps_as_many_numbers_as_it_says,
    scores_are_one_finite_number_an_image,
    scores_of_a_batch_are_the_scores_one_by_one,
    scores_do_not_depend_on_what_was_scored_before,
    scoring_changes_nothing_of_the_detector,
    a_copy_scores_the_same_and_is_fitted_apart,
    a_fit_is_fixed_by_its_seed_and_starts_anew,
    the_global_random_generators_are_left_alone,
    progress_is_told_in_growing_steps,
    its_state_holds_all_it_learnt,
    maps_are_one_value_a_pixel_where_there_are_any,
    the_backbone_is_left_as_it_was,
)
"""Of every detector; some claims are made only of detectors that learn, that pass a gradient, or that have a name."""
