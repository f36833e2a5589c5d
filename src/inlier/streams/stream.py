"""A stream: what a monitor's scores mean when they come one after another.

A monitor sees every image alone, so that a batch is judged as its images are one by one. What needs a memory is here:
alarms that are events, adaptation to conditions that change slowly, and the declaration of drift. Numbers in, numbers
out; a stream that is told the same scores again is in the same state again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import torch
from torch import Tensor

from inlier.calibration import Calibration, autocorrelation_length, members
from inlier.errors import Mismatch
from inlier.monitor import Monitor
from inlier.streams.adaptation import RunningMedian
from inlier.streams.alarm import Alarm, AlarmRule
from inlier.streams.martingale import ConformalMartingale
from inlier.types import Scores

__all__ = ["Event", "Moment", "Stream", "thinned"]

Event: TypeAlias = Literal["alarm raised", "alarm cleared", "drift declared"]


@dataclass(frozen=True)
class Moment:
    """What a stream says of one frame.

    Attributes:
        frame: its number, from 0.
        score: the monitor's, larger = more anomalous.
        p_value: the monitor's, of the frame alone.
        flagged: the monitor's verdict on the frame alone.
        adapted: the score less what has been usual lately; without adaptation the score.
        over: whether the adapted score is above the threshold; without adaptation as `flagged`. Alarms are made of it.
        recent: how many of the alarm's window of frames were.
        alarm: whether the alarm is on.
        martingale: the decimal logarithm of the capital won by betting on drift.
        drift: whether drift has been declared.
        events: what happened at this frame.
    """

    frame: int
    score: float
    p_value: float
    flagged: bool
    adapted: float
    over: bool
    recent: int
    alarm: bool
    martingale: float
    drift: bool
    events: tuple[Event, ...] = ()

    def row(self) -> dict[str, Any]:
        """Plain values; JSON has no infinity, so a number that is not finite is None."""
        row = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
        return plain | {"events": list(self.events)}


class Stream:
    """Scores in the order of their frames; alarms, drift and what has been usual lately come out.

    A score that is not finite counts as larger than all others.

    Args:
        calibration: of the monitor.
        false_alarm_rate: of the monitor.
        clean: scores of clean images in their order in time, and `groups` which recording each is of. Ranks of the
            drift martingale start from them.
        rule: when alarms are raised and cleared.
        adapt: subtract the running median of so many frames that were not over the threshold; 0 does not. In units of
            the calibration's robust rule: standard deviations of the scores, or of their logarithms where all clean
            scores are positive (distances are; of fused surprisals it depends on the smallest).
        drift: chance to declare drift falsely, ever, if the frames looked at are exchangeable with the clean ones.
        drift_every: look at every so many frames for drift; None for as many as clean scores stay correlated. Of the
            clean scores the same share is taken.
        seed: of what breaks ties between scores.

    Raises:
        ValueError: a rate outside (0, 1), no clean scores, not a group for each, or bad numbers of frames; adaptation
            to a calibration of which half the scores are equal.
        NotFitted: the calibration is not fitted.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> clean = torch.rand(200, generator=generator, dtype=torch.float64)
        >>> stream = Stream(Calibration().fit(clean), 0.05, clean, ["drive"] * 200, rule=AlarmRule(2, 4))
        >>> moments = stream.update(torch.tensor([0.2, 0.7, 1.5, 0.4, 1.7, 1.6], dtype=torch.float64))
        >>> [(moment.frame, *moment.events) for moment in moments if moment.events]
        [(4, 'alarm raised')]
    """

    def __init__(
        self,
        calibration: Calibration,
        false_alarm_rate: float,
        clean: Scores,
        groups: Sequence[str],
        *,
        rule: AlarmRule | None = None,
        adapt: int = 0,
        drift: float = 0.001,
        drift_every: int | None = None,
        seed: int = 0,
    ) -> None:
        if clean.ndim != 1 or clean.numel() == 0 or len(groups) != clean.numel():
            raise ValueError(
                f"A stream needs scores of clean images and a group for each, not {tuple(clean.shape)} scores and "
                f"{len(groups)} groups"
            )
        if not 0 < drift < 1:
            raise ValueError(
                f"The chance of declaring drift falsely lies between 0 and 1, both excluded, not {drift!r}"
            )
        if adapt < 0 or (drift_every is not None and drift_every < 1):
            raise ValueError(f"Expected adapt >= 0 and drift_every >= 1, not adapt={adapt}, drift_every={drift_every}")
        if adapt and not calibration.spread > 0:
            raise ValueError(
                "Half or more of the clean scores are equal, so that there is no unit to adapt in. Use adapt=0."
            )
        self.calibration = calibration
        self.false_alarm_rate = false_alarm_rate
        self.threshold = calibration.threshold(false_alarm_rate)
        self.drift = drift
        self.adapt = adapt
        self.seed = seed
        if drift_every is None:
            values = calibration.standardise(clean.double()) if calibration.spread > 0 else clean.double()
            drift_every = autocorrelation_length(values, groups)
        self.drift_every = drift_every
        self.alarm = Alarm(rule or AlarmRule())
        self.martingale = ConformalMartingale(thinned(clean, groups, drift_every), seed=seed)
        self._median = RunningMedian(adapt) if adapt else None
        self._frames = 0
        self._drifted = False

    @classmethod
    def of(
        cls,
        monitor: Monitor,
        *,
        rule: AlarmRule | None = None,
        adapt: int = 0,
        drift: float = 0.001,
        drift_every: int | None = None,
        seed: int = 0,
    ) -> Self:
        """A stream of a calibrated monitor's scores.

        Its clean images must have come in their order in time within their groups, as folders do.

        Raises:
            NotFitted: the monitor is not calibrated.
            ValueError: as the constructor.
        """
        clean = monitor.calibration_scores  # refuses a monitor that is not calibrated
        assert monitor.clean is not None
        assert monitor.false_alarm_rate is not None
        return cls(
            monitor.calibration,
            monitor.false_alarm_rate,
            clean,
            monitor.clean.groups,
            rule=rule,
            adapt=adapt,
            drift=drift,
            drift_every=drift_every,
            seed=seed,
        )

    @property
    def frames(self) -> int:
        """How many came so far."""
        return self._frames

    @property
    def drifted(self) -> bool:
        """Whether drift has been declared."""
        return self._drifted

    def update(self, scores: Scores) -> list[Moment]:
        """Take in the scores (n,) of the next frames, in their order.

        The same comes out however they are cut into calls.

        Raises:
            ValueError: not of shape (n,).
        """
        if scores.ndim != 1:
            raise ValueError(f"Expected scores of shape (n,), one a frame, not {tuple(scores.shape)}")
        values = scores.detach().cpu().double()
        values = torch.where(values.isfinite(), values, torch.inf)
        if values.numel() == 0:
            return []
        p_values = self.calibration.p_value(values)
        heights = self._heights(values)
        return [
            self._next(score, p, height)
            for score, p, height in zip(values.tolist(), p_values.tolist(), heights, strict=True)
        ]

    def begun_anew(self, *, rule: AlarmRule | None = None) -> Stream:
        """A stream with these settings, or another rule for alarms, that nothing has come to yet."""
        fresh = copy.copy(self)
        fresh.alarm = Alarm(rule or self.alarm.rule)
        fresh.martingale = copy.copy(self.martingale)
        fresh.martingale.restart()
        fresh._median = RunningMedian(self.adapt) if self.adapt else None
        fresh._frames = 0
        fresh._drifted = False
        return fresh

    def over(self, scores: Scores) -> list[bool]:
        """Whether each of these (n,) scores is over the threshold, as `update` says if nothing has come before."""
        fresh = self.begun_anew()
        fresh.drift_every = max(len(scores), 1)  # drift has no say in it, and takes most of the time
        return [moment.over for moment in fresh.update(scores)]

    def state(self) -> dict[str, Any]:
        """What the stream remembers, in plain values that JSON can hold."""
        return {
            "threshold": self.threshold,
            "frames": self._frames,
            "drifted": self._drifted,
            "alarm": self.alarm.state(),
            "median": None if self._median is None else self._median.state(),
            "martingale": self.martingale.state(),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where another with the same settings left off.

        Raises:
            Mismatch: that one had other settings, as far as its state tells.
        """
        adapts = state["median"] is not None
        if state["threshold"] != self.threshold or adapts != (self._median is not None):
            raise Mismatch(
                f"This state is of a stream with threshold {state['threshold']:g}, {'' if adapts else 'not '}adapting; "
                f"this one has {self.threshold:g}, {'' if self._median is not None else 'not '}adapting. Make it with "
                "the same monitor and settings."
            )
        self.alarm.resume(state["alarm"])
        if self._median is not None:
            self._median.resume(state["median"])
        self.martingale.resume(state["martingale"])
        self._frames, self._drifted = int(state["frames"]), bool(state["drifted"])

    def _heights(self, values: Tensor) -> list[float]:
        """Scores above the clean median in robust standard deviations; they are looked at only to adapt."""
        return self.calibration.standardise(values).tolist() if self.adapt else values.tolist()

    def _next(self, score: float, p_value: float, height: float) -> Moment:
        events: list[Event] = []
        flagged = not score <= self.threshold
        adapted, over = score, flagged
        if self._median is not None:
            usual = self._median.value
            # Without an offset the score is kept to the bit, so that both verdicts agree on ties with the threshold.
            if usual:
                adapted = self.calibration.score_at(height - usual)
                over = not adapted <= self.threshold
            if not over:
                self._median.add(height)
        change = self.alarm.update(over)
        if change is not None:
            events.append("alarm raised" if change == "raised" else "alarm cleared")
        if self._frames % self.drift_every == 0:
            self.martingale.update(score)  # as it is: what adaptation absorbs must be told
            if not self._drifted and self.martingale.log_value >= -math.log(self.drift):
                self._drifted = True
                events.append("drift declared")
        self._frames += 1
        return Moment(
            frame=self._frames - 1,
            score=score,
            p_value=p_value,
            flagged=flagged,
            adapted=adapted,
            over=over,
            recent=self.alarm.recent,
            alarm=self.alarm.on,
            martingale=self.martingale.log_value / math.log(10),
            drift=self._drifted,
            events=tuple(events),
        )


def thinned(scores: Scores, groups: Sequence[str], every: int) -> list[float]:
    """Every so many scores of each group, from its first on."""
    return [float(scores[place]) for run in members(groups).values() for place in run[::every].tolist()]
