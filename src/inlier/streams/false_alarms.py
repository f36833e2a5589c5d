"""How often a stream raises alarms that mean nothing, and the rule that people can live with.

Three numbers: what would come if frames were independent of each other, which they are not; what came on the clean
images in their order, which are few; and how many more may yet come, given that they are few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import chi2

from inlier.calibration import members
from inlier.streams.alarm import Alarm, AlarmRule
from inlier.streams.stream import Stream
from inlier.types import Scores

__all__ = ["FalseAlarms", "flags_told", "frames_for", "rule_for"]

SECONDS_AN_HOUR = 3600


@dataclass(frozen=True)
class FalseAlarms:
    """What a stream's rule does on clean frames.

    Attributes:
        rule: of the alarm.
        frames: clean ones, in recordings that were each watched from the start.
        over: frames over the threshold.
        alarms: raised.
        if_independent: alarms a frame to expect if frames were independent, at the larger of the nominal and the
            observed share over the threshold.
    """

    rule: AlarmRule
    frames: int
    over: int
    alarms: int
    if_independent: float

    @classmethod
    def of(cls, stream: Stream, clean: Scores, groups: Sequence[str]) -> FalseAlarms:
        """Watch each group of the clean scores, given in their order in time, with a stream of these settings."""
        return counted(stream.alarm.rule, stream.false_alarm_rate, flags(stream, clean, groups))

    def observed_per_hour(self, frame_rate: float) -> float:
        """Alarms an hour at so many frames a second, at the rate of the clean frames."""
        return self.alarms / self.frames * frame_rate * SECONDS_AN_HOUR

    def independent_per_hour(self, frame_rate: float) -> float:
        """Alarms an hour at so many frames a second, if frames were independent."""
        return self.if_independent * frame_rate * SECONDS_AN_HOUR

    def at_most_per_hour(self, frame_rate: float, confidence: float = 0.95) -> float:
        """The most alarms an hour that these clean frames do not rule out at this confidence, one-sided.

        The exact upper limit of a Poisson mean, chi2(confidence; 2 x + 2) / 2 for x alarms (Garwood, Biometrika 28,
        1936): alarms independent of each other, and frames to come like the clean ones.
        """
        limit = float(chi2.ppf(confidence, 2 * self.alarms + 2)) / 2
        return limit / self.frames * frame_rate * SECONDS_AN_HOUR


def rule_for(
    stream: Stream,
    clean: Scores,
    groups: Sequence[str],
    *,
    alarms_per_hour: float,
    frame_rate: float,
    window: int = 10,
    quiet: int | None = None,
) -> FalseAlarms:
    """The quickest rule of this window that raises at most so many alarms an hour on clean frames.

    At most so many on the clean frames in their order, and by the formula for independent frames; whether the clean
    frames are enough to bear it out, `at_most_per_hour` says.

    Args:
        clean, groups: as in `FalseAlarms.of`.
        alarms_per_hour: events, not flagged frames; above 0.
        frame_rate: frames looked at a second; above 0.
        window, quiet: of the rule.

    Raises:
        ValueError: no rule of this window does, or a number that is not above 0.
    """
    if not (alarms_per_hour > 0 and frame_rate > 0):
        raise ValueError(f"Alarms an hour and frames a second are above 0, not {alarms_per_hour!r}, {frame_rate!r}")
    recordings = flags(stream, clean, groups)
    for needed in range(1, window + 1):
        found = counted(AlarmRule(needed, window, quiet), stream.false_alarm_rate, recordings)
        independent, observed = found.independent_per_hour(frame_rate), found.observed_per_hour(frame_rate)
        if max(independent, observed) <= alarms_per_hour:
            return found
    raise ValueError(
        f"No alarm of {window} frames keeps to {alarms_per_hour:g} an hour at {frame_rate:g} frames a second: even if "
        f"all {window} must be flagged there are {observed:.3g} an hour on the clean images, and {independent:.3g} if "
        "frames are independent. Look at fewer frames, take a longer window, or calibrate to a lower false-alarm rate."
    )


def flags(stream: Stream, clean: Scores, groups: Sequence[str]) -> list[list[bool]]:
    """Of every group, which frames are over the threshold of a stream that starts with it."""
    return [stream.over(clean[places]) for places in members(groups).values()]


def counted(rule: AlarmRule, nominal: float, recordings: Sequence[Sequence[bool]]) -> FalseAlarms:
    """What a rule makes of the flags of recordings that are each watched from the start."""
    alarms = 0
    for recording in recordings:
        alarm = Alarm(rule)
        alarms += sum(alarm.update(flag) == "raised" for flag in recording)
    frames, over = sum(map(len, recordings)), sum(map(sum, recordings))
    return FalseAlarms(rule, frames, over, alarms, rule.rate(max(nominal, over / frames)))


def frames_for(alarms_per_hour: float, frame_rate: float, confidence: float = 0.95) -> int:
    """How many clean frames without an alarm bear out so few alarms an hour: -log(1 - confidence) / rate a frame.

    >>> frames_for(1, 30)
    323540
    """
    return math.ceil(-math.log1p(-confidence) * frame_rate * SECONDS_AN_HOUR / alarms_per_hour)


def flags_told(rate: float, frame_rate: float) -> str:
    """What a share of frames means at a frame rate, for people.

    >>> flags_told(0.01, 30)
    '1 % of frames at 30 frames a second is 18 flagged frames a minute'
    """
    minute = rate * frame_rate * 60
    told = f"{minute:.3g} flagged frames a minute" if minute >= 1 else f"{60 * minute:.3g} flagged frames an hour"
    return f"{100 * rate:g} % of frames at {frame_rate:g} frames a second is {told}"
