"""Attacks that may only ask: no gradients, a number or a yes for every query, and a budget of queries.

An oracle maps images (n, c, h, w) to what the attacker raises, (n,), or, for an attack on hard labels, to whether each
has won, (n,) bool. Images that have won leave the batch and cost no more queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inlier.attacks.constraints import LinfBall
from inlier.images import check_images
from inlier.types import Images, Progress, Scores

__all__ = ["Decision", "Oracle", "QueryResult", "rays", "spsa", "square"]

Oracle: TypeAlias = Callable[[Images], Tensor]
"""What the attacker raises, (n,); at 0 or above an image has won, if `win` of the attack is 0."""
Decision: TypeAlias = Callable[[Images], Tensor]
"""Whether each image has won, (n,) bool."""


@dataclass(frozen=True, eq=False)
class QueryResult:
    """What came of asking.

    Args:
        images: the best found, in the ball and in [0, 1].
        values: (n,) the oracle's on these; for hard labels minus the distance (Linf) at which the image wins.
        won: whether each reached `win`.
        queries: made for each image.
    """

    images: Images
    values: Scores
    won: Bool[Tensor, " n"]
    queries: Int[Tensor, " n"]


class Asked:
    """The best image of each so far, who has won, and what it cost."""

    def __init__(self, oracle: Oracle, clean: Images, win: float) -> None:
        self.oracle = oracle
        self.win = win
        self.queries = torch.zeros(len(clean), dtype=torch.long)
        self.best = clean.clone()
        self.values = torch.full((len(clean),), -torch.inf)
        self.values = self.ask(clean, torch.arange(len(clean)))

    @property
    def left(self) -> Int[Tensor, " m"]:
        """Who has not won."""
        return (self.values < self.win).nonzero()[:, 0]

    @torch.no_grad()
    def ask(self, images: Images, places: Int[Tensor, " m"]) -> Scores:
        """The oracle's values, one query an image."""
        values = self.oracle(images).detach().float().cpu()
        if values.shape != (len(images),):
            raise ValueError(f"An oracle returns one value an image, ({len(images)},), not {tuple(values.shape)}")
        self.queries.index_add_(0, places, torch.ones_like(places))
        return values.nan_to_num(nan=-torch.inf)

    def offer(self, images: Images, places: Int[Tensor, " m"]) -> Bool[Tensor, " m"]:
        """Ask, and take what is better than the best so far."""
        values = self.ask(images, places)
        better = values > self.values[places]
        self.best[places[better]] = images[better]
        self.values[places[better]] = values[better]
        return better

    def start_at(self, ball: LinfBall, initial: Images | None) -> None:
        """Offer these instead of the clean images, unless there are none or somebody has won."""
        left = self.left
        if initial is not None and len(left):
            self.offer(ball.project(initial.to(self.best)[left], self.best[left]), left)

    def result(self) -> QueryResult:
        return QueryResult(self.best, self.values, self.values >= self.win, self.queries)


def spsa(
    oracle: Oracle,
    images: Images,
    eps: float,
    *,
    steps: int = 100,
    samples: int = 256,
    delta: float = 0.01,
    size: float = 0.01,
    win: float = 0.0,
    initial: Images | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> QueryResult:
    """Finite differences along random signs give a gradient, Adam follows it.

    Source: Uesato et al. 2018 (arXiv:1802.05666), section 4.3 and algorithm 1: `samples` queries a step, half of them
    at each side.

    Args:
        oracle: to raise.
        images: (n, c, h, w) in [0, 1].
        eps: radius of the Linf ball.
        steps, samples: queries an image are at most 1 + steps * (samples + 1).
        delta: of a difference.
        size: of Adam's steps.
        win: an image whose value is at least this leaves.
        initial: where to start, brought into the ball, if that is better than the images themselves: one query more.
        batch_size: images in one question at most.
        seed: of the signs.

    Raises:
        ValueError: settings that cannot be, or images out of range.
    """
    check_images(images)
    if steps < 1 or samples < 2 or samples % 2 or delta <= 0:
        raise ValueError(
            f"spsa needs steps >= 1, an even number of samples and delta > 0, not {steps}, {samples}, {delta}"
        )
    ball, generator = LinfBall(eps), torch.Generator().manual_seed(seed)
    asked = Asked(oracle, images, win)
    asked.start_at(ball, initial)
    at = asked.best.clone()
    mean, square = torch.zeros_like(images), torch.zeros_like(images)
    for step in range(1, steps + 1):
        for place in asked.left.tolist():
            here = at[place]
            slope = torch.zeros_like(here)
            for start in range(0, samples // 2, max(1, batch_size // 2)):
                count = min(max(1, batch_size // 2), samples // 2 - start)
                signs = torch.randint(0, 2, (count, *here.shape), generator=generator).to(here) * 2 - 1
                both = torch.cat([here + delta * signs, here - delta * signs]).clamp(0, 1)
                up, down = asked.ask(both, torch.full((2 * count,), place)).chunk(2)
                weights = ((up - down) / (2 * delta)).nan_to_num(0.0, 0.0, 0.0).to(here)
                slope += torch.einsum("m,mchw->chw", weights, signs)
            mean[place] = 0.9 * mean[place] + 0.1 * slope / (samples // 2)
            square[place] = 0.999 * square[place] + 0.001 * (slope / (samples // 2)) ** 2
            along = (mean[place] / (1 - 0.9**step)) / ((square[place] / (1 - 0.999**step)).sqrt() + 1e-12)
            at[place] = ball.project((here + size * along)[None], images[place : place + 1])[0]
        left = asked.left
        if len(left) == 0:
            break
        asked.offer(at[left], left)
        if progress is not None:
            progress("spsa", step, steps)
    return asked.result()


def square(
    oracle: Oracle,
    images: Images,
    eps: float,
    *,
    queries: int = 5000,
    share: float = 0.8,
    win: float = 0.0,
    initial: Images | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> QueryResult:
    """Random squares at the ball's edge, of which those that help are kept; they shrink with the budget.

    Source: Andriushchenko et al. 2020 (arXiv:1912.00049), algorithms 1 and 2 in Linf, with the schedule of section 3.2.

    Args:
        oracle, images, eps, win, initial, seed: as of `spsa`; with `initial` there are no stripes to begin with.
        queries: an image at most, the first look included.
        share: of the image's pixels that the first square has.
    """
    check_images(images)
    if queries < 2 or not 0 < share <= 1:
        raise ValueError(f"square needs at least 2 queries and a share in (0, 1], not {queries} and {share}")
    generator = torch.Generator().manual_seed(seed)
    asked = Asked(oracle, images, win)
    asked.start_at(LinfBall(eps), initial)
    channels, height, width = images.shape[1:]

    def signs(*shape: int) -> Tensor:
        return (torch.randint(0, 2, shape, generator=generator) * 2 - 1).to(images)

    left = asked.left
    if len(left) and initial is None:
        stripes = signs(len(left), channels, 1, width)
        asked.offer((images[left] + eps * stripes).clamp(0, 1), left)
    for number in range(2, queries):
        left = asked.left
        if len(left) == 0:
            break
        side = max(1, min(height, width, round(math.sqrt(share_at(number, queries, share) * height * width))))
        rows = torch.randint(height - side + 1, (len(left),), generator=generator)
        columns = torch.randint(width - side + 1, (len(left),), generator=generator)
        inside_rows = (torch.arange(height) >= rows[:, None]) & (torch.arange(height) < rows[:, None] + side)
        inside_columns = (torch.arange(width) >= columns[:, None]) & (torch.arange(width) < columns[:, None] + side)
        window = (inside_rows[:, None, :, None] & inside_columns[:, None, None, :]).to(images.device)
        there = images[left] + eps * signs(len(left), channels, 1, 1)
        asked.offer(torch.where(window, there.clamp(0, 1), asked.best[left]), left)
        if progress is not None and number % 100 == 0:
            progress("square", number, queries)
    return asked.result()


def share_at(number: int, queries: int, share: float) -> float:
    """The share of a square's pixels: halved at 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries.

    >>> share_at(0, 10_000, 0.8), share_at(60, 10_000, 0.8)
    (0.8, 0.2)
    """
    at = 10_000 * number / queries
    return float(share / 2 ** sum(at > mark for mark in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)))


def rays(
    decision: Decision,
    images: Images,
    eps: float,
    *,
    queries: int = 1000,
    tolerance: float = 1e-3,
    seed: int = 0,
    progress: Progress | None = None,
) -> QueryResult:
    """Hard labels: how far along a vertex of the cube until the image wins? Signs that bring that nearer are kept.

    Source: Chen and Gu 2020 (arXiv:2006.12792), algorithms 1 to 3, but for the start at random vertices: blocks are
    halved from the whole image down, and each candidate is asked once at the distance found so far before it is
    searched by bisection.

    Args:
        decision: whether images have won, such as the prediction wrong and the monitor silent.
        images: (n, c, h, w) in [0, 1]; one that has won as it is stays as it is.
        eps: images that win within it have won, and leave.
        queries: an image at most.
        tolerance: of the bisection, in units of [0, 1].
        seed: of the vertices that are tried until one wins.
    """
    check_images(images)
    if queries < 2 or tolerance <= 0:
        raise ValueError(f"rays needs at least 2 queries and a tolerance above 0, not {queries} and {tolerance}")
    generator = torch.Generator().manual_seed(seed)
    found = [search(decision, image[None], eps, queries, tolerance, generator, progress) for image in images]
    best, distances, spent = zip(*found, strict=True)
    distance = torch.tensor(distances)
    return QueryResult(torch.cat(best), -distance, distance <= eps, torch.tensor(spent))


def search(
    decision: Decision,
    image: Float[Tensor, "1 c h w"],
    eps: float,
    queries: int,
    tolerance: float,
    generator: torch.Generator,
    progress: Progress | None,
) -> tuple[Images, float, int]:
    """One image: what wins at the least distance found, that distance (inf if none), and the queries spent."""
    spent = 0

    @torch.no_grad()
    def wins(signs: Tensor, distance: float) -> bool:
        nonlocal spent
        spent += 1
        return bool(decision((image + distance * signs.view_as(image)).clamp(0, 1))[0])

    nearest, best = math.inf, torch.ones_like(image).flatten()
    if wins(best, 0.0):
        return image, 0.0, spent
    blocks, block = 1, 0
    while spent < queries and nearest > eps:
        length = math.ceil(len(best) / blocks)
        if math.isinf(nearest):  # until one wins at all
            candidate = (torch.randint(0, 2, best.shape, generator=generator) * 2 - 1).to(best)
        else:
            candidate = best.clone()
            candidate[block * length : (block + 1) * length] *= -1
            block += 1
        if wins(candidate, min(nearest, 1.0)):
            low, high = 0.0, min(nearest, 1.0)
            while high - low > tolerance and spent < queries:
                middle = (low + high) / 2
                low, high = (low, middle) if wins(candidate, middle) else (middle, high)
            nearest, best = high, candidate
        if block * length >= len(best):
            blocks, block = (2 * blocks, 0) if 2 * blocks <= len(best) else (1, 0)
        if progress is not None:
            progress("rays", spent, queries)
    moved = image if math.isinf(nearest) else (image + nearest * best.view_as(image)).clamp(0, 1)
    return moved, nearest, spent
