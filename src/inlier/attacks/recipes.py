"""Recipes: published attacks as rows of a table, each a constraint, a stepper and a number of steps.

A recipe says how to climb; what is climbed is said when it is called, so every recipe is also an attack on a detector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from inlier.attacks.constraints import Constraint, L2Ball, LinfBall
from inlier.attacks.engine import Attack
from inlier.attacks.steppers import L2Step, MomentumSign, SignStep, Stepper

__all__ = ["RECIPES", "Recipe", "fgsm", "ifgsm", "mifgsm", "pgd"]


def fgsm(eps: float = 0.02) -> Attack:
    """The fast gradient sign method: one step of size `eps`, clip(x + eps sign(gradient), 0, 1).

    Source: Goodfellow et al. 2015 (arXiv:1412.6572), section 4; eps as in DAAIN.

    >>> import torch
    >>> from inlier.backbones.base import Backbone, Classification
    >>> from inlier.probe import Probe
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> probe = Probe(Backbone(network, Classification(("cat", "dog"))))
    >>> result = fgsm(eps=0.02)(probe, torch.full((1, 3, 2, 2), 0.5))
    >>> round(result.norms["Linf"].item(), 4)
    0.02
    """
    return Attack(LinfBall(eps), SignStep(eps), steps=1)


def ifgsm(eps: float = 0.01, step_size: float = 0.005, steps: int = 5) -> Attack:
    """Iterated FGSM, also called BIM; give a target for the targeted one.

    Source: Kurakin et al. 2017 (arXiv:1607.02533), section 2.2; numbers as in DAAIN.
    """
    return Attack(LinfBall(eps), SignStep(step_size), steps)


def mifgsm(eps: float = 16 / 255, steps: int = 10, decay: float = 1.0) -> Attack:
    """Iterated FGSM with momentum, in steps of eps / steps.

    Source: Dong et al. 2018 (arXiv:1710.06081), algorithm 1.
    """
    return Attack(LinfBall(eps), MomentumSign(eps / steps, decay), steps)


def pgd(
    eps: float = 8 / 255,
    norm: Literal["linf", "l2"] = "linf",
    steps: int = 40,
    step_size: float | None = None,
    restarts: int = 1,
    start: Literal["clean", "random"] = "random",
) -> Attack:
    """Projected gradient ascent from a random start. Source: Madry et al. 2018 (arXiv:1706.06083), section 2.1.

    Differs from the source: the best iterate is kept, not the last, so that overshooting costs nothing.

    Args:
        norm: with `l2`, eps is the norm over all of an image's values.
        step_size: by default eps / 4, and 2.5 eps / steps in l2.
    """
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm is 'linf' or 'l2', not {norm!r}")
    constraint: Constraint
    stepper: Stepper
    if norm == "linf":
        constraint, stepper = LinfBall(eps), SignStep(eps / 4 if step_size is None else step_size)
    else:
        constraint, stepper = L2Ball(eps), L2Step(2.5 * eps / steps if step_size is None else step_size)
    return Attack(constraint, stepper, steps, start=start, keep="best", restarts=restarts)


@dataclass(frozen=True)
class Recipe:
    """A row of the table: the attack, whether it makes sense only with a target, and where it is from."""

    factory: Callable[..., Attack]
    needs_target: bool
    paper: str


RECIPES: Mapping[str, Recipe] = {
    "fgsm": Recipe(fgsm, False, "Goodfellow et al. 2015, arXiv:1412.6572"),
    "fgsm_targeted": Recipe(fgsm, True, "Kurakin et al. 2017, arXiv:1607.02533"),
    "ifgsm": Recipe(ifgsm, False, "Kurakin et al. 2017, arXiv:1607.02533"),
    "ifgsm_targeted": Recipe(ifgsm, True, "Kurakin et al. 2017, arXiv:1607.02533"),
    "mifgsm": Recipe(mifgsm, False, "Dong et al. 2018, arXiv:1710.06081"),
    "pgd_linf": Recipe(pgd, False, "Madry et al. 2018, arXiv:1706.06083"),
    "pgd_l2": Recipe(partial(pgd, 0.5, "l2"), False, "Madry et al. 2018, arXiv:1706.06083"),
}
