"""Recipes: published attacks as rows of a table, each a constraint, a stepper and a number of steps.

A recipe says how to climb; what is climbed is said when it is called, so every recipe is also an attack on a detector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from inlier.attacks.constraints import Constraint, L2Ball, LinfBall, Unbounded
from inlier.attacks.engine import Attack
from inlier.attacks.objectives import Objective, fooled, share_changed
from inlier.attacks.steppers import Adam, AutoStep, Cosine, L2Step, MomentumSign, PeakStep, SignStep, Stepper
from inlier.attacks.surrogates import correct_cross_entropy, dag, hinge, houdini, jensen_shannon, segpgd, smooth_count
from inlier.registry import nearest

__all__ = [
    "ALIASES",
    "RECIPES",
    "Recipe",
    "apgd",
    "dag_attack",
    "fgsm",
    "houdini_attack",
    "ifgsm",
    "mifgsm",
    "pgd",
    "recipe_named",
    "segpgd_attack",
    "staged",
]


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


def apgd(eps: float = 8 / 255, norm: Literal["linf", "l2"] = "linf", steps: int = 100, restarts: int = 1) -> Attack:
    """Auto-PGD from a random start: nothing to tune but the budget; images that are wrong leave.

    Source: Croce and Hein 2020 (arXiv:2003.01690), algorithm 1. Segmentation has no single wrong class, so that no
    image of it leaves before all of its pixels are wrong.
    """
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm is 'linf' or 'l2', not {norm!r}")
    constraint: Constraint = LinfBall(eps) if norm == "linf" else L2Ball(eps)
    stepper = AutoStep(eps, steps, norm)
    return Attack(constraint, stepper, steps, start="random", keep="best", restarts=restarts, stop=fooled(1.0))


def staged(eps: float = 8 / 255, steps: int = 300) -> Attack:
    """For segmentation: 30 % of the steps in a ball of 2 eps, 30 % in 1.5 eps and 40 % in eps.

    Source: Croce et al. 2024 (arXiv:2306.12941), section 2.3, whose stages are Auto-PGD; here they are sign steps with
    momentum that shrink along a cosine, so that one run goes through all stages.
    """
    schedule = ((0.3, 2.0), (0.3, 1.5), (0.4, 1.0))
    return Attack(
        LinfBall(eps), Cosine(MomentumSign(eps / 4, 0.75), steps), steps, start="random", keep="best", schedule=schedule
    )


def segpgd_attack(eps: float = 8 / 255, steps: int = 20) -> Attack:
    """Sign steps of eps / 4 from a random start, for the objective `segpgd`.

    Source: Gu et al. 2022 (arXiv:2207.12391), algorithm 1, which keeps the last iterate.
    """
    return Attack(LinfBall(eps), SignStep(eps / 4), steps, start="random")


def dag_attack(eps: float | None = None, steps: int = 200, size: float = 0.5 / 255) -> Attack:
    """Dense adversary generation: until 99 % of the pixels are the target, each step as large as `size` at its peak.

    Source: Xie et al. 2017 (arXiv:1703.08603), algorithm 1, gamma = 0.5 in grey levels. Theirs has neither a ball nor
    the limits of a pixel; here [0, 1] always holds, and a ball if eps is given.
    """
    constraint: Constraint = Unbounded() if eps is None else LinfBall(eps)
    return Attack(constraint, PeakStep(size), steps, stop=fooled(0.99))


def houdini_attack(eps: float | None = 8 / 255, steps: int = 100, size: float = 0.01) -> Attack:
    """Adam on the Houdini loss, in a ball if eps is given; the best iterate is kept.

    Source: Cisse et al. 2017 (arXiv:1707.05373), section 4, and its use for segmentation.
    """
    constraint: Constraint = Unbounded() if eps is None else LinfBall(eps)
    return Attack(constraint, Adam(size), steps, keep="best")


@dataclass(frozen=True)
class Recipe:
    """A row of the table.

    Args:
        factory: of the attack.
        needs_target: whether it makes sense only with a target.
        paper: where it is from.
        objective: what it raises; by default cross-entropy, to the labels or to the target.
        better: what the best iterate has most of, where that is not the objective: one that leaves wrong pixels alone
            falls as they become more.
    """

    factory: Callable[..., Attack]
    needs_target: bool
    paper: str
    objective: Objective | None = None
    better: Objective | None = None


RECIPES: Mapping[str, Recipe] = {
    "fgsm": Recipe(fgsm, False, "Goodfellow et al. 2015, arXiv:1412.6572"),
    "fgsm_targeted": Recipe(fgsm, True, "Kurakin et al. 2017, arXiv:1607.02533"),
    "ifgsm": Recipe(ifgsm, False, "Kurakin et al. 2017, arXiv:1607.02533"),
    "ifgsm_targeted": Recipe(ifgsm, True, "Kurakin et al. 2017, arXiv:1607.02533"),
    "mifgsm": Recipe(mifgsm, False, "Dong et al. 2018, arXiv:1710.06081"),
    "pgd_linf": Recipe(pgd, False, "Madry et al. 2018, arXiv:1706.06083"),
    "pgd_l2": Recipe(partial(pgd, eps=0.5, norm="l2"), False, "Madry et al. 2018, arXiv:1706.06083"),
    "pgd_hinge": Recipe(pgd, False, "Carlini and Wagner 2017, arXiv:1608.04644", hinge(), share_changed),
    "pgd_count": Recipe(pgd, False, "after Madry et al. 2018, arXiv:1706.06083", smooth_count(), share_changed),
    "apgd_linf": Recipe(apgd, False, "Croce and Hein 2020, arXiv:2003.01690"),
    "apgd_l2": Recipe(partial(apgd, eps=0.5, norm="l2"), False, "Croce and Hein 2020, arXiv:2003.01690"),
    "segpgd": Recipe(segpgd_attack, False, "Gu et al. 2022, arXiv:2207.12391", segpgd),
    "masked_cross_entropy": Recipe(
        staged, False, "Croce et al. 2024, arXiv:2306.12941", correct_cross_entropy, share_changed
    ),
    "jensen_shannon": Recipe(staged, False, "Croce et al. 2024, arXiv:2306.12941", jensen_shannon, share_changed),
    "dag": Recipe(dag_attack, True, "Xie et al. 2017, arXiv:1703.08603", dag),
    "houdini": Recipe(houdini_attack, False, "Cisse et al. 2017, arXiv:1707.05373", houdini, share_changed),
    "houdini_targeted": Recipe(houdini_attack, True, "Cisse et al. 2017, arXiv:1707.05373", houdini),
}

ALIASES: Mapping[str, str] = {"pgd": "pgd_linf", "apgd": "apgd_linf", "bim": "ifgsm"}
"""Other names of recipes."""


def recipe_named(name: str, others: Iterable[str] = ()) -> str:
    """The row of `RECIPES` that a name or an alias stands for.

    Args:
        name: what was written.
        others: names that could have been meant besides, of attackers that are no recipes.

    Raises:
        LookupError: no such recipe; the message names the nearest.

    >>> recipe_named("pgd")
    'pgd_linf'
    """
    row = ALIASES.get(name, name)
    if row not in RECIPES:
        raise LookupError(f"No recipe named '{name}'. {nearest(name, [*RECIPES, *ALIASES, *others])}")
    return row
