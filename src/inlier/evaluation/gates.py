"""Gates: checks against fooling ourselves. A monitor may seem to hold because whoever attacked it was weak.

A gate that fails, or was not run, is told of beside the figures that it casts doubt on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool
from torch import Tensor

from inlier.attacks.joint import DEAD, limit_of
from inlier.evaluation.intervals import paired_rate_interval
from inlier.monitor import Monitor
from inlier.types import Images

__all__ = [
    "BROKEN", "CONTROL", "DEAD_GRADIENTS", "TWICE", "UNBOUNDED", "Gate", "black_box_gate", "control_gate", "dead_gate",
    "iterated_gate", "knowledge_gate", "least_decided", "monitor_gates", "never_falls", "not_here", "rising_gate",
    "rounding_gate", "slope_gate", "steps_gate", "surrogates_gate",
]  # fmt: skip

SLOPES = 8
"""So many images have their slope checked."""
STEPS = (2e-3, 5e-4, 1e-4)
"""In units of [0, 1]: half a grey level and less."""
BROKEN = 0.5
"""Success of the worst case from which a monitor counts as broken."""
UNBOUNDED = ("without a bound every image evades", "at least .95")
"""What the gate asks that takes attackers without a bound, and what it wants; the next ones likewise."""
TWICE = ("twice the steps change nothing", "the interval of the difference holds 0")
CONTROL = ("the suite breaks what is known to break", f"success at least {BROKEN:g}")
DEAD_GRADIENTS = ("dead gradients", f"at most {DEAD:.0%} of who knows the monitor")
SETTLED = 0.05
"""The share of images that may evade before rounding and not after."""


@dataclass(frozen=True)
class Gate:
    """One check.

    Args:
        name: what is asked.
        wanted, observed: for people.
        passed: None where it was not run.
    """

    name: str
    wanted: str
    observed: str
    passed: bool | None

    @property
    def verdict(self) -> str:
        """PASS, FAIL or that it was not run."""
        return "not run" if self.passed is None else "PASS" if self.passed else "FAIL"

    def told(self) -> dict[str, str]:
        """As JSON values."""
        return {"name": self.name, "wanted": self.wanted, "observed": self.observed, "verdict": self.verdict}


def never_falls(values: Sequence[float], images: float) -> bool:
    """Whether each value is at least the one before, but for one image's weight."""
    return all(low <= high + 1 / max(1.0, images) + 1e-9 for low, high in pairwise(values))


def rising_gate(success: Sequence[float], images: int) -> Gate:
    """Whether success rises with eps, `success` being that at every eps from the smallest."""
    observed = ", ".join(f"{rate:.3f}" for rate in success) + (" at one eps alone" if len(success) == 1 else "")
    return Gate("success rises with eps", "no fall", observed, never_falls(success, images) if success[1:] else None)


def knowledge_gate(success: Mapping[str, float], images: int) -> Gate:
    """Whether who knows more succeeds more often, `success` being by tier from who knows least."""
    tiers, rates = [*success], [*success.values()]
    wanted = " >= ".join(tiers[::-1]) if rates[1:] else "T3 >= T0"
    observed = ", ".join(f"{rate:.3f}" for rate in rates[::-1]) if rates[1:] else "there is nobody to compare"
    passed = never_falls(rates, images) if rates[1:] else None
    return Gate("who knows more succeeds more often", wanted, observed, passed)


def black_box_gate(
    white: Bool[Tensor, " n"] | None, black: Bool[Tensor, " m"] | None, blind: Bool[Tensor, " n"] | None = None
) -> Gate:
    """Whether who sees everything succeeds as often as who may only ask, and he as often as those below him, on the
    images that were asked about: the first ones.

    Args:
        white, black: which images each got past the monitor.
        blind: what those did whose images were there to ask about first, who may not ask; None where nobody's were.
    """
    name, wanted = "white-box at least as strong as black-box", "T3 >= T2" + (" >= T1, T0" if blind is not None else "")
    if black is None or white is None:
        return Gate(name, wanted, "no questions were asked" if black is None else "nobody saw everything", None)
    counts = [int(each[: len(black)].sum()) for each in (white, black, blind) if each is not None]
    told = ", ".join(map(str, counts[:-1]))
    passed = all(high >= low for high, low in pairwise(counts))
    return Gate(name, wanted, f"{told} and {counts[-1]} of {len(black)} images", passed)


def steps_gate(before: Bool[Tensor, " n"], after: Bool[Tensor, " n"], level: str) -> Gate:
    """Whether twice the steps leave success where it was, on the images that raised no alarm before.

    Args:
        before, after: which images evade with the steps, and with twice as many.
        level: at which eps, for people.
    """
    if not len(before):
        return Gate(*TWICE, "no image was silent", None)
    pairs = (int((before & after).sum()), int((after & ~before).sum()), int((before & ~after).sum()))
    change = paired_rate_interval(*pairs, len(before) - sum(pairs))
    observed = (
        f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}], {int(before.sum())} of {len(before)} {level}"
    )
    return Gate(*TWICE, observed, change.low <= 0 <= change.high)


def control_gate(rate: float | None, on: str = "", missing: str = "no control was given") -> Gate:
    """Whether the attackers break what is known to break.

    Args:
        rate: their success there, None where they did not try, for the reason `missing`.
        on: what that is, for people.
    """
    name, wanted = CONTROL
    observed = missing if rate is None else f"{rate:.3f}"
    return Gate(name, f"{wanted} {on}".strip(), observed, None if rate is None else rate >= BROKEN)


@torch.no_grad()
def surrogates_gate(surrogates: Iterable[Monitor], images: Images, batch_size: int) -> Gate:
    """Whether all of the attackers' own monitors let pass what they attack, before anything is changed: one who chases
    an alarm that was there from the start does not attack the network."""
    parts = torch.split(images, batch_size)
    flagged = [torch.cat([own.score(part) for part in parts]) > limit_of(own) for own in surrogates]
    passed = int((~torch.stack(flagged).any(0)).sum())
    name, wanted = "the attackers' own monitors pass the images unchanged", "at least half of them"
    return Gate(name, wanted, f"{passed} of {len(images)}", 2 * passed >= len(images))


def iterated_gate(pairs: Sequence[tuple[float, float]], missing: str = "") -> Gate:
    """Whether attacks of several steps damage as much as those of one, `pairs` being the mean damage of each; `missing`
    says why there are none."""
    told = ", ".join(f"{many:.3f} against {once:.3f}" for many, once in pairs)
    held = all(many >= once - 0.01 for many, once in pairs) if pairs else None
    return Gate("iterated attack against one step", "at least its mean damage", told or missing, held)


def not_here(*checks: tuple[str, str]) -> list[Gate]:
    """Gates that take further attacks, as named and not run."""
    return [Gate(name, wanted, "not here: inlier stress runs it", None) for name, wanted in checks]


def least_decided(success: Mapping[float, float]) -> float:
    """The eps at which success is nearest to one half, of several the smallest: where more steps could show."""
    return min(sorted(success), key=lambda eps: abs(success[eps] - 0.5))


def rounding_gate(lost: float) -> Gate:
    """Whether success survives 8 bit, `lost` being the share of images that nobody got past the monitor after."""
    name, wanted = "no success is lost in rounding to 8 bit", f"at most {SETTLED:.0%} of the images"
    return Gate(name, wanted, f"{lost:.3f}", lost <= SETTLED)


def dead_gate(shares: Sequence[float], of: str) -> Gate:
    """Whether gradients carried anything: at most `DEAD` of any attack's are zero or not finite."""
    most = max(shares, default=None)
    observed = "not counted" if most is None else f"{most:.2%}"
    return Gate("dead gradients", f"at most {DEAD:.0%} of {of}", observed, None if most is None else most <= DEAD)


def slope_gate(monitor: Monitor, images: Images) -> Gate:
    """Whether the score moves as its gradient says: the median, over up to 8 images, of the relative error of the
    slope along the gradient's sign, for each image that of the step at which the two agree best. A score that bends
    is straight in small steps, one that goes by stairs in large ones."""
    name, wanted = "finite differences agree with the gradient", "median relative error at most 0.2"
    errors = []
    for image in torch.split(images[:SLOPES], 1):
        leaf = image.clone().requires_grad_()
        score = monitor.score(leaf).sum()
        if not score.requires_grad:
            return Gate(name, wanted, "the score has no gradient", False)
        (gradient,) = torch.autograd.grad(score, leaf)
        sign, told = gradient.sign(), float(gradient.abs().double().sum())
        with torch.no_grad():
            ends = [[monitor.score(image + way * step * sign).double() for way in (1, -1)] for step in STEPS]
        slopes = [float((up - down) / (2 * step)) for (up, down), step in zip(ends, STEPS, strict=True)]
        errors.append(min(abs(slope - told) / max(abs(slope), told) if told or slope else 1.0 for slope in slopes))
    wrong = sorted(errors)[len(errors) // 2]
    return Gate(name, wanted, f"{wrong:.3f}", wrong <= 0.2)


@torch.no_grad()
def monitor_gates(monitor: Monitor, batch: Images) -> list[Gate]:
    """What must be true of the monitor itself: its score of a batch is the same every time, and the network's
    predictions are what they are without it."""
    scores = torch.stack([monitor.score(batch).double() for _ in range(5)])
    spread = float((scores.amax(0) - scores.amin(0)).max() / scores.abs().max().clamp_min(1e-12))
    watched, alone = monitor.probe(batch).output.argmax(1), monitor.backbone(batch).argmax(1)
    differ = float((watched != alone).double().mean())
    return [
        Gate("five passes agree", "to 1e-6 of the score", f"{spread:.2g}", spread <= 1e-6),
        Gate("the monitor leaves predictions alone", "none differs", f"{differ:.2%}", differ == 0),
    ]
