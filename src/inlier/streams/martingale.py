"""Drift, with a stated chance of declaring it falsely: betting against the exchangeability of a stream's scores.

Every score is ranked among the clean scores and all that came before it. If they are exchangeable, these ranks are
independent and uniform, and no way of betting on them makes money: capital grown a thousandfold is evidence that
they are not.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

__all__ = ["ConformalMartingale"]

JUMPS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Shares of the capital laid out anew at every step, one for each gambler; so much for every time scale of a change."""
EXPONENTS = (0.5, 0.25)
"""k of the bets k p^(k - 1)."""
RANDOM_BITS = 32  # of what breaks ties: with more, 1 - p would round to 0 for long streams


class ConformalMartingale:
    """Capital won by betting that scores are not exchangeable with the reference and with each other; it starts at 1.

    The p-value of the n-th score of all, reference included, is (#{s_i > s_n} + u #{s_i = s_n}) / n with u uniform
    and the score itself counted. Under exchangeability these are independent and uniform (Vovk, Nouretdinov and
    Gammerman, Testing exchangeability on-line, ICML 2003, theorem 1), so that the capital is a martingale and by
    Ville's inequality P(it is ever c or more) <= 1 / c, however long the stream. p-values by a *fixed* calibration set
    are not independent, since all share its luck, and guarantee nothing of the kind: they are not used here.

    The bets are densities of p on [0, 1]: 1, k p^(k - 1) for scores that grow, k (1 - p)^(k - 1) for scores that
    shrink, k one half and one quarter. Five gamblers spread their capital over them and lay out a share J of it
    anew at every step, J = 0.0001, 0.001, ..., 1; the capital is the mean of theirs. (The composite jumper of Vovk,
    Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman, Retrain or not retrain: conformal test martingales for
    change-point detection, COPA 2021.)

    What the guarantee needs is exchangeability. Neighbouring frames of a video are alike and break it without any
    drift: feed it frames that lie as far apart as clean scores stay correlated, from conditions that the reference has
    seen. The first scores after a change tell most: later ones are ranked among those already changed.

    Args:
        reference: scores of clean images, larger = more anomalous. There may be none.
        seed: of what breaks ties.

    Raises:
        ValueError: a reference score is nan.

    Example:
        >>> martingale = ConformalMartingale([float(score) for score in range(100)], seed=0)
        >>> for score in range(1000, 1020):
        ...     p_value = martingale.update(float(score))
        >>> martingale.log_value > math.log(1000)
        True
    """

    def __init__(self, reference: Sequence[float], *, seed: int = 0) -> None:
        if any(math.isnan(score) for score in reference):
            raise ValueError("The reference has scores that are nan: leave these images out, or find what made them")
        self.seed = seed
        self._reference = tuple(sorted(reference))
        self.restart()

    def restart(self) -> None:
        """Forget the stream: the capital is 1 again, and only the reference is known."""
        self._seen = list(self._reference)
        self._random = Random(self.seed)
        self._came: list[float] = []
        bets = 1 + 2 * len(EXPONENTS)
        self._shares = [[1 / bets] * bets for _ in JUMPS]
        self._logs = [0.0] * len(JUMPS)
        self._log_value = 0.0
        self._log_statistic = -math.inf
        self._log_largest = 0.0

    @property
    def count(self) -> int:
        """How many scores came since the start."""
        return len(self._came)

    @property
    def log_value(self) -> float:
        """The natural logarithm of the capital."""
        return self._log_value

    @property
    def log_largest(self) -> float:
        """The natural logarithm of the largest capital so far."""
        return self._log_largest

    @property
    def log_shiryaev_roberts(self) -> float:
        """The natural logarithm of R_n = (1 + R_{n-1}) S_n / S_{n-1}, S the capital and R_0 = 0.

        Somebody joins the betting with 1 at every step, and R is what they have together; R_n - n is a martingale.
        Under exchangeability the mean number of scores until R >= c is therefore at least c: a mean run length in
        place of a chance for ever, and no memory of what was lost before a change. (Vovk et al. 2021, as above.)
        """
        return self._log_statistic

    def update(self, score: float) -> float:
        """Bet, see the score, settle; returns its p-value in (0, 1).

        Raises:
            ValueError: the score is nan.
        """
        if math.isnan(score):
            raise ValueError("A score that is nan has no rank; count it as infinite, or leave the frame out")
        equal = bisect_right(self._seen, score) - bisect_left(self._seen, score) + 1
        larger = len(self._seen) + 1 - equal - bisect_left(self._seen, score)
        # Never 0 or 1, where a bet would win without bound.
        lot: float = (self._random.getrandbits(RANDOM_BITS) + 0.5) / 2**RANDOM_BITS
        p_value = (larger + lot * equal) / (len(self._seen) + 1)
        insort(self._seen, score)
        self._came.append(score)
        before = self._log_value
        # Differs from the composite jumper: its bets are 1 + e (p - 1/2), e in {-1, 0, 1}, which win at most half the
        # stake at a step, whatever the p-value.
        payoffs = (
            1.0,
            *(k * p_value ** (k - 1) for k in EXPONENTS),
            *(k * (1 - p_value) ** (k - 1) for k in EXPONENTS),
        )
        for gambler, jump in enumerate(JUMPS):
            shares = [(1 - jump) * share + jump / len(payoffs) for share in self._shares[gambler]]
            won = [share * payoff for share, payoff in zip(shares, payoffs, strict=True)]
            growth = sum(won)
            self._shares[gambler] = [part / growth for part in won]
            self._logs[gambler] += math.log(growth)
        self._log_value = log_mean_exp(self._logs)
        self._log_largest = max(self._log_largest, self._log_value)
        statistic = self._log_statistic
        joined = max(statistic, 0.0) + math.log1p(math.exp(-abs(statistic)))
        self._log_statistic = joined + self._log_value - before
        return p_value

    def state(self) -> dict[str, Any]:
        """The scores that came since the start, in plain values; with the same reference and seed they say it all."""
        return {"seed": self.seed, "scores": list(self._came)}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where another with the same reference left off.

        Raises:
            ValueError: that one had another seed.
        """
        if state["seed"] != self.seed:
            raise ValueError(f"That martingale had seed {state['seed']}, and this one has {self.seed}")
        self.restart()
        for score in state["scores"]:
            self.update(score)


def log_mean_exp(values: Sequence[float]) -> float:
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values) / len(values))
