"""What every backbone promises: `check_backbone` tries it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from inlier.anatomy import Anatomy
from inlier.backbones.base import Backbone
from inlier.backbones.load import load_backbone
from inlier.probe import Probe
from inlier.readers import ChannelStatistics
from inlier.testing.claims import (
    ClaimFailed,
    hold,
    hooks_of,
    leaving_randomness_alone,
    require,
    require_close,
    require_equal,
)
from inlier.testing.specimens import scenes

__all__ = ["check_backbone"]

COUNT = 3


def check_backbone(
    backbone: str | Backbone | Callable[[], Backbone], *, size: tuple[int, int] = (64, 96), differentiable: bool = True
) -> None:
    """Try what every backbone promises, on drawn images.

    Args:
        backbone: what `inlier fit --backbone` takes, a backbone, or a factory without arguments.
        size: (h, w) of the images that it is shown.
        differentiable: False for a network that passes no gradient to its images; it cannot be attacked.

    Raises:
        ClaimFailed: tells which claims do not hold and with which values.
        LookupError: there is no such backbone.

    Example:
        >>> check_backbone("street")
    """
    if isinstance(backbone, str):
        made = load_backbone(backbone)
    else:
        made = backbone if isinstance(backbone, Backbone) else backbone()
    if not isinstance(made, Backbone):
        raise ClaimFailed(f"the factory made {type(made).__name__}, no Backbone; wrap the network in inlier.Backbone")
    case = Case(made, size)
    claims = (*CLAIMS, a_gradient_reaches_every_image) if differentiable else CLAIMS
    hold(f"Backbone of {type(made.network).__name__}", claims, case)


class Case:
    """A backbone, images for it, and how it was when it came."""

    def __init__(self, backbone: Backbone, size: tuple[int, int]) -> None:
        self.backbone = backbone
        self.images = scenes(COUNT, size)
        self.hooks = hooks_of(backbone)
        self.state = copy.deepcopy(backbone.state_dict())
        self.fingerprint = backbone.fingerprint()

    def logits(self) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = self.backbone(self.images)
        return logits


def it_stays_in_eval_mode(case: Case) -> None:
    training = [name for name, module in case.backbone.train().named_modules() if name and module.training]
    require(not training, f"in training mode are {training[:5]}")


def logits_have_a_place_for_every_class(case: Case) -> None:
    logits, task = case.logits(), case.backbone.task
    expected = (COUNT, len(task.classes), *(case.images.shape[-2:] if task.is_dense else ()))
    require(tuple(logits.shape) == expected, f"logits have shape {tuple(logits.shape)}, expected is {expected}")
    require(bool(logits.isfinite().all()), "logits are not finite everywhere")


def logits_depend_on_the_image(case: Case) -> None:
    logits = case.logits()
    require(not torch.equal(logits[0], logits[1]), "two different images have the same logits")


def two_passes_give_the_same(case: Case) -> None:
    require_equal(case.logits(), case.logits(), "logits of two passes")


def logits_of_a_batch_are_the_logits_one_by_one(case: Case) -> None:
    with torch.no_grad():
        alone = torch.cat([case.backbone(image[None]) for image in case.images])
    require_close(case.logits(), alone, "in a batch and alone", rtol=1e-3, atol=1e-3)


def a_gradient_reaches_every_image(case: Case) -> None:
    images = case.images.clone().requires_grad_()
    logits = case.backbone(images)
    require(logits.requires_grad, "logits have no gradient with respect to the images")
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), images)
    require(bool(gradient.isfinite().all()), "the gradient is not finite everywhere")
    without = [i for i, part in enumerate(gradient) if not (part != 0).any()]
    require(not without, f"the gradient is zero for images {without} of {COUNT}")


def activations_can_be_read_inside_it(case: Case) -> None:
    anatomy = Anatomy.of(case.backbone, (case.images.shape[-2], case.images.shape[-1]))
    require(bool(anatomy.everywhere()), "no leaf module runs once and passes one tensor: there is nothing to tap")
    probe = Probe(case.backbone, [ChannelStatistics(anatomy.everywhere())])
    expected = case.logits()
    with torch.no_grad():
        observation = probe(case.images)
        require(bool(observation.readings["statistics"].isfinite().all()), "activations are not finite everywhere")
        require_equal(observation.output, expected, "logits while activations are read, and without")


def what_the_network_is_given_is_not_changed(case: Case) -> None:
    before = case.images.clone()
    case.logits()
    require_equal(case.images, before, "the images after a pass and before")


def the_network_is_left_as_it_was(case: Case) -> None:
    with leaving_randomness_alone("a forward pass"):
        case.logits()
    for name, value in case.backbone.state_dict().items():
        require_equal(value, case.state[name], f"'{name}' after passes and before")
    require(case.backbone.fingerprint() == case.fingerprint, "the fingerprint has changed")
    left = [name for name in hooks_of(case.backbone) if name not in case.hooks]
    require(not left, f"hooks are left on {left}")


def no_hook_survives_a_pass_that_fails(case: Case) -> None:
    anatomy = Anatomy.of(case.backbone, (case.images.shape[-2], case.images.shape[-1]))
    probe = Probe(case.backbone, [Failing(anatomy.everywhere())])
    try:
        _ = probe(case.images).output
    except Stumbled:
        left = [name for name in hooks_of(case.backbone) if name not in case.hooks]
        require(not left, f"hooks are left on {left}")
    else:
        raise ClaimFailed("an error inside the forward pass does not come out of it")


class Stumbled(Exception):
    """What `Failing` raises."""


class Failing(ChannelStatistics):
    """A reader that fails at its last tap."""

    def keep(self, position: int, activation: torch.Tensor) -> torch.Tensor:
        if position == len(self.taps) - 1:
            raise Stumbled
        return super().keep(position, activation)


CLAIMS: tuple[Callable[[Case], None], ...] = (
    it_stays_in_eval_mode,
    logits_have_a_place_for_every_class,
    logits_depend_on_the_image,
    two_passes_give_the_same,
    logits_of_a_batch_are_the_logits_one_by_one,
    activations_can_be_read_inside_it,
    what_the_network_is_given_is_not_changed,
    no_hook_survives_a_pass_that_fails,
    the_network_is_left_as_it_was,
)
