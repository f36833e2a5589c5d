"""A monitor attacked by who may only ask it: the running system's answer to an image, and nothing of its inside.

What is asked is answered of the image as an 8-bit file holds it. The attacker sees the prediction, and either the
monitor's score or only whether it raised an alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from inlier.attacks.joint import Outcome, change_norms, limit_of
from inlier.attacks.queries import QueryResult, rays, spsa, square
from inlier.attacks.surrogates import margins
from inlier.monitor import Monitor
from inlier.types import Images, LabelMaps, Progress, Scores

__all__ = ["QUERIES", "Asking", "MonitorQueries", "ask_monitor"]

SAMPLES = 64
"""Queries that one gradient of SPSA takes; the source has 256, of a budget that few can pay."""

RAYS_LEAST = 23
"""The first look, and twice a vertex and ten halvings of the distance to it: only the second can bring it nearer."""


@dataclass(frozen=True)
class Asking:
    """A row: how questions become an image, what each answer holds, and where it is from.

    Args:
        run: of an oracle, images, eps, a budget of queries, where to start (None: from the images themselves), a seed
            and what is told of progress.
        reveals: the monitor's `score`, or its `flag` alone.
        paper: source.
        least: the fewest questions with which it does what it is for.
    """

    run: Callable[..., QueryResult]
    reveals: Literal["score", "flag"]
    paper: str
    least: int


def by_spsa(
    oracle: Callable[[Images], Tensor], images: Images, eps: float, *, queries: int, initial: Images | None, seed: int,
    progress: Progress | None,
) -> QueryResult:  # fmt: skip
    """SPSA with as many steps as the budget pays for."""
    samples = min(SAMPLES, max(2, queries // 2 * 2 - 2))
    steps = max(1, (queries - (1 if initial is None else 2)) // (samples + 1))
    size = min(0.01, eps / 2)
    return spsa(
        oracle, images, eps, steps=steps, samples=samples, size=size, initial=initial, seed=seed, progress=progress
    )


def by_rays(
    decision: Callable[[Images], Tensor], images: Images, eps: float, *, queries: int, initial: Images | None,
    seed: int, progress: Progress | None,
) -> QueryResult:  # fmt: skip
    """RayS; an image that wins only beyond eps stays as it was. It has no use for a start that has not won."""
    found = rays(decision, images, eps, queries=queries, seed=seed, progress=progress)
    inside = found.images.where(found.won.view(-1, 1, 1, 1).to(images.device), images)
    return replace(found, images=inside)


QUERIES: Mapping[str, Asking] = {
    "square": Asking(square, "score", "Andriushchenko et al. 2020, arXiv:1912.00049", 2),
    "spsa": Asking(by_spsa, "score", "Uesato et al. 2018, arXiv:1802.05666", 4),  # one step along one pair of signs
    "rays": Asking(by_rays, "flag", "Chen and Gu 2020, arXiv:2006.12792", RAYS_LEAST),
}


@dataclass(frozen=True, eq=False)
class MonitorQueries(Outcome):
    """What asking a monitor came to, on the images as 8-bit files hold them.

    Args:
        clean: as they were.
        images: the best found, rounded.
        prediction: on these.
        queries: made for each image.
        config: what was run, as JSON values; with its seed.
    """

    clean: Images
    images: Images
    prediction: LabelMaps
    queries: Int[Tensor, " n"]
    config: Mapping[str, Any]

    @property
    def norms(self) -> dict[str, Scores]:
        """The size of each image's change as the file holds it: L0, L1, L2 and Linf over all its values."""
        return change_norms(self.clean, self.images)

    @property
    def seed(self) -> int:
        """Of what was drawn."""
        return int(self.config["seed"])

    def raised(self, share: float = 0.3) -> tuple[str, ...]:
        """What makes this attack a poor witness if it failed, a sentence each; none if nothing does."""
        failed = ~self.evaded(share) & self.silent
        if failed.any() and (self.queries[failed] >= 0.95 * self.config["queries"]).any():
            return ("questions ran out before some of the images evaded; more might do it",)
        return ()


@torch.no_grad()
def ask_monitor(
    monitor: Monitor,
    images: Images,
    eps: float,
    *,
    how: str = "square",
    queries: int = 500,
    share: float = 0.3,
    rate: float | None = None,
    initial: Sequence[Images] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> MonitorQueries:
    """Attack a calibrated monitor and its network by questions alone; an image that evades costs no more of them.

    With the score, what is raised is the smaller of two: how far the prediction is from being wrong (the share of
    changed pixels still to go, or a classifier's margin in softmax), and how far the score is below the threshold.
    With the flag alone, an image has won where enough of the prediction changed and no alarm was raised.

    Args:
        monitor: calibrated.
        images: in [0, 1], at the size at which they are attacked.
        eps: radius of the Linf ball.
        how: a row of `QUERIES`.
        queries: an image at most.
        share: of the prediction that is to change.
        rate: the nominal false-alarm rate; by default the monitor's own.
        initial: what was made of the images without asking, each (n, c, h, w), such as by transfer. It is asked about
            first, and who sees scores goes on from the best of it.
        seed: of what is drawn.

    Raises:
        LookupError: no such row.
        NotFitted: the monitor is not calibrated.
        ValueError: a budget that the attack cannot use, images out of range, or others to start from than as many of
            the same shape.
    """
    if how not in QUERIES:
        raise LookupError(f"No attack by queries is named '{how}'. There are {', '.join(QUERIES)}.")
    row, limit = QUERIES[how], limit_of(monitor, rate)
    for start in initial:
        if start.shape != images.shape:
            raise ValueError(f"Expected images {tuple(images.shape)} to start from, not {tuple(start.shape)}")
    if initial and queries < len(initial) + 2:
        raise ValueError(f"{len(initial)} images to start from leave nothing of {queries} queries: give more")
    prediction = torch.cat([monitor.backbone.predict(image) for image in torch.split(images, 1)])
    answer = partial(_answer, monitor, limit=limit, share=share)
    parts = []
    for place, image in enumerate(torch.split(images, 1)):  # one by one: an oracle knows which image it is asked about
        own = prediction[place : place + 1]

        def oracle(asked: Images, own: LabelMaps = own) -> Tensor:
            wrong, gap = answer(asked, own.expand(len(asked), *own.shape[1:]))
            return torch.minimum(wrong, gap) if row.reveals == "score" else (wrong >= 0) & (gap >= 0)

        def step(_: str, done: int, of: int, place: int = place) -> None:
            if progress is not None:
                progress(how, place * queries + done * queries // of, len(images) * queries)

        starts = [start[place : place + 1].to(image) for start in initial]
        parts.append(_asked(row, oracle, image, eps, starts, queries=queries, seed=seed + place, progress=step))
    stored = (torch.cat([part.images for part in parts]) * 255).round() / 255
    before, after, later = _scores(monitor, images, stored)
    damage = (later != prediction).reshape(len(images), -1).float().mean(1)
    config = {"attack": how, "queries": queries, "eps": eps, "reveals": row.reveals, "share": share, "seed": seed}
    config |= {"starts": len(initial)} if initial else {}
    return MonitorQueries(
        before, after, damage, limit, images, stored, later, torch.cat([part.queries for part in parts]), config
    )  # fmt: skip


def _asked(
    row: Asking, oracle: Callable[[Images], Tensor], image: Images, eps: float, starts: Sequence[Images], *,
    queries: int, seed: int, progress: Progress,
) -> QueryResult:  # fmt: skip
    """One image. What is there to start from is asked about first, one after another until one has won."""
    best, most = None, -torch.inf
    for spent, start in enumerate(starts, start=1):
        value = float(oracle(start)[0])
        if value > 0 or (value == 0 and row.reveals == "score"):
            return QueryResult(start, torch.tensor([value]), torch.tensor([True]), torch.tensor([spent]))
        if value > most:
            best, most = start, value
    found = row.run(oracle, image, eps, queries=queries - len(starts), initial=best, seed=seed, progress=progress)
    return replace(found, queries=found.queries + len(starts))


def _answer(monitor: Monitor, asked: Images, own: LabelMaps, *, limit: float, share: float) -> tuple[Tensor, Tensor]:
    """How wrong the prediction is and how far below the threshold the score, both at 0 or above where it is enough."""
    observation = monitor.probe((asked * 255).round() / 255)
    score, output = monitor.objective(observation), observation.output
    gap = (limit - score) / max(abs(limit), 1e-12)
    if output.ndim == 2:
        return margins(output.softmax(1), own), gap
    changed = (output.argmax(1) != own).reshape(len(asked), -1).float().mean(1)
    return changed - share, gap


def _scores(monitor: Monitor, clean: Images, changed: Images) -> tuple[Scores, Scores, LabelMaps]:
    before, after, later = [], [], []
    for was, now in zip(torch.split(clean, 1), torch.split(changed, 1), strict=True):
        observation = monitor.probe(now)
        before.append(monitor.score(was))
        after.append(monitor.objective(observation))
        later.append(observation.output.argmax(1))
    return torch.cat(before), torch.cat(after), torch.cat(later)
