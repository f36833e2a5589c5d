"""What every perturbation promises: `check_perturbation` tries it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from inlier.perturbations.base import SEVERITIES, Perturbation
from inlier.perturbations.table import PERTURBATIONS
from inlier.testing.claims import ClaimFailed, hold, leaving_randomness_alone, require, require_close, require_equal
from inlier.testing.specimens import scenes
from inlier.types import Images

__all__ = ["check_perturbation"]

SIZE = (17, 22)
"""Odd and not square, so that what mistakes rows for columns is found out."""


def check_perturbation(perturbation: str | Callable[..., Perturbation]) -> None:
    """Try what every perturbation promises, at every severity, on drawn images.

    Args:
        perturbation: a registered name, or a factory that takes `severity=`.

    Raises:
        ClaimFailed: tells which claims do not hold and with which values.
        LookupError: there is no such perturbation.

    Example:
        >>> check_perturbation("fog")
    """
    factory = PERTURBATIONS[perturbation] if isinstance(perturbation, str) else perturbation
    case = Case(factory)
    claims = CLAIMS + (RANDOM if case.random else FIXED)
    hold(f"Perturbation '{type(case.at(1)).__name__}'", claims, case)


class Case:
    """A perturbation at every severity, and images for it."""

    def __init__(self, factory: Callable[..., Perturbation]) -> None:
        self.factory = factory
        self.images = scenes(3, SIZE)
        try:
            self.at(1)(self.images)
            self.random = False
        except ValueError:  # it is random, or it fails with a generator too and every claim will say so
            self.random = True

    def at(self, severity: int) -> Perturbation:
        return self.factory(severity=severity)

    def perturbed(self, severity: int, images: Images | None = None, seed: int = 0) -> Images:
        generator = torch.Generator().manual_seed(seed) if self.random else None
        return self.at(severity)(self.images if images is None else images, generator)


def severity_0_is_the_identity(case: Case) -> None:
    require_equal(case.perturbed(0), case.images, "at severity 0")


def images_stay_images(case: Case) -> None:
    for severity in SEVERITIES:
        changed = case.perturbed(severity)
        told = f"at severity {severity} images of {tuple(case.images.shape)} became"
        same = changed.shape == case.images.shape and changed.dtype == case.images.dtype
        require(same, f"{told} {changed.dtype} of shape {tuple(changed.shape)}")
        low, high = changed.aminmax()
        require(bool(low >= 0 and high <= 1), f"{told} ones in [{low:g}, {high:g}], not in [0, 1]")  # nan is not


def every_severity_from_1_changes_the_images(case: Case) -> None:
    for severity in SEVERITIES[1:]:
        require(not torch.equal(case.perturbed(severity), case.images), f"severity {severity} changed nothing")


def equal_seeds_give_equal_images(case: Case) -> None:
    for severity in SEVERITIES:
        require_equal(case.perturbed(severity), case.perturbed(severity), f"twice at severity {severity}")


def what_it_is_given_is_not_changed(case: Case) -> None:
    before = case.images.clone()
    for severity in SEVERITIES:
        case.perturbed(severity)
        require_equal(case.images, before, f"the images given, after severity {severity} and before")


def the_global_random_generators_are_left_alone(case: Case) -> None:
    with leaving_randomness_alone("it"):
        for severity in SEVERITIES:
            case.perturbed(severity)


def a_severity_that_is_none_is_refused(case: Case) -> None:
    for severity in (-1, 6):
        try:
            case.at(severity)
        except ValueError:
            continue
        raise ClaimFailed(f"severity {severity} is taken; raise ValueError for what is not 0 to 5")


def images_of_a_batch_are_changed_as_they_are_alone(case: Case) -> None:
    for severity in SEVERITIES:
        alone = torch.cat([case.perturbed(severity, image[None]) for image in case.images])
        require_close(case.perturbed(severity), alone, f"in a batch and alone at severity {severity}")


def other_seeds_and_other_images_are_perturbed_otherwise(case: Case) -> None:
    twins = case.images[:1].expand(2, -1, -1, -1)
    one, other = case.perturbed(3, twins)
    require(not torch.equal(one, other), "two copies of an image in a batch were perturbed alike")
    require(not torch.equal(one, case.perturbed(3, twins, seed=1)[0]), "another seed gave the same image")


def without_a_generator_it_asks_for_one(case: Case) -> None:
    try:
        case.at(1)(case.images)
    except ValueError as error:
        require("generator" in str(error), f"without a generator it says {str(error)!r}; name the generator")


CLAIMS: tuple[Callable[[Case], None], ...] = (
    severity_0_is_the_identity,
    images_stay_images,
    every_severity_from_1_changes_the_images,
    equal_seeds_give_equal_images,
    what_it_is_given_is_not_changed,
    the_global_random_generators_are_left_alone,
    a_severity_that_is_none_is_refused,
)
FIXED: tuple[Callable[[Case], None], ...] = (images_of_a_batch_are_changed_as_they_are_alone,)
"""Of a perturbation that draws nothing at random."""
RANDOM: tuple[Callable[[Case], None], ...] = (
    other_seeds_and_other_images_are_perturbed_otherwise,
    without_a_generator_it_asks_for_one,
)
