"""Alarms for people: raised when k of the last n frames are flagged, cleared when enough quiet ones came in a row.

Single flags are too many to look at: 1 % of the frames at 30 a second is 18 a minute. An alarm is one event, however
many flags it has, and how often flags that mean nothing make one can be worked out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from scipy.sparse import coo_array, eye_array
from scipy.sparse.linalg import spsolve

__all__ = ["LONGEST_WINDOW", "Alarm", "AlarmEvent", "AlarmRule"]

AlarmEvent: TypeAlias = Literal["raised", "cleared"]

LONGEST_WINDOW = 12
"""Frames: the exact rate of alarms goes over all 2^(n-1) histories of flags."""


@dataclass(frozen=True)
class AlarmRule:
    """Raised when `needed` of the last `window` frames are flagged, cleared after `quiet` unflagged frames in a row.

    That it is harder to raise than to keep is the hysteresis: a score that goes to and fro over the threshold is one
    alarm.

    Args:
        needed: flagged frames, k.
        window: frames, n, at most 12.
        quiet: frames; at least `window`, so that nothing of one alarm counts for the next. By default `window`.

    Raises:
        ValueError: not 1 <= needed <= window <= 12, or `quiet` is less than `window`.
    """

    needed: int = 5
    window: int = 10
    quiet: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.needed <= self.window <= LONGEST_WINDOW:
            raise ValueError(
                f"An alarm needs k of the last n frames, 1 <= k <= n <= {LONGEST_WINDOW}, not {self.needed} of "
                f"{self.window}"
            )
        if self.quiet is not None and self.quiet < self.window:
            raise ValueError(
                f"An alarm is cleared after at least as many quiet frames as the window has, {self.window}, not "
                f"{self.quiet}"
            )

    @property
    def clears_after(self) -> int:
        """Quiet frames in a row."""
        return self.window if self.quiet is None else self.quiet

    def __str__(self) -> str:
        return f"{self.needed} of {self.window} frames flagged, cleared after {self.clears_after} quiet ones"

    def rate(self, flag_rate: float) -> float:
        """Alarms raised a frame in the long run, if every frame is flagged with this chance *independently of others*.

        Exact, up to the rounding of a linear system, which shows below 1e-12: 1 / (E[frames until it is raised] +
        E[frames until it is cleared]), the first over all histories of flags with fewer than k of n, the second
        (1 - q^m) / (p q^m) for a run of m quiet frames, q = 1 - p (Feller, An Introduction to Probability Theory and
        Its Applications I, 1968, XIII.7.7).

        Frames of a video are not independent: flags come in runs, and alarms more often than this where they are rare.

        Raises:
            ValueError: the chance is not in [0, 1].
        """
        if not 0 <= flag_rate <= 1:
            raise ValueError(f"The share of frames flagged lies between 0 and 1, not {flag_rate!r}")
        if flag_rate in (0, 1):  # never raised; or raised once and never cleared
            return 0.0
        silent = (1 - flag_rate) ** self.clears_after
        if silent == 0:
            return 0.0
        return 1 / (self._until_raised(flag_rate) + (1 - silent) / (flag_rate * silent))

    def _until_raised(self, p: float) -> float:
        """Mean number of frames from an empty window."""
        kept = self.window - 1  # flags that count beside the next frame's
        histories = [bits for bits in range(1 << kept) if bits.bit_count() < self.needed]
        place = {bits: row for row, bits in enumerate(histories)}
        mask = (1 << kept) - 1
        rows, columns, chances = [], [], []
        for bits, row in place.items():
            moves = [(bits << 1 & mask, 1 - p)]
            if bits.bit_count() + 1 < self.needed:
                moves.append(((bits << 1 | 1) & mask, p))
            for to, chance in moves:
                rows.append(row)
                columns.append(place[to])
                chances.append(chance)
        size = len(histories)
        going_on = coo_array((chances, (rows, columns)), shape=(size, size)).tocsc()
        waits = spsolve((eye_array(size, format="csc") - going_on).tocsc(), [1.0] * size)
        return float(waits[0] if size > 1 else waits.item())


class Alarm:
    """An alarm's state as flags come in, one a frame.

    Args:
        rule: when it is raised and cleared.

    Example:
        >>> alarm = Alarm(AlarmRule(needed=2, window=3))
        >>> [alarm.update(flag) for flag in (True, False, True, True, False, False, False)]
        [None, None, 'raised', None, None, None, 'cleared']
    """

    def __init__(self, rule: AlarmRule) -> None:
        self.rule = rule
        self.on = False
        self._flags = 0  # of the last `window` frames, the latest in the lowest bit
        self._quiet = 0

    @property
    def recent(self) -> int:
        """How many of the last `window` frames were flagged."""
        return self._flags.bit_count()

    def update(self, flagged: bool) -> AlarmEvent | None:
        """Take in a frame; what became of the alarm by it."""
        self._flags = (self._flags << 1 | flagged) & ((1 << self.rule.window) - 1)
        self._quiet = 0 if flagged else self._quiet + 1
        if not self.on and self.recent >= self.rule.needed:
            self.on = True
            return "raised"
        if self.on and self._quiet >= self.rule.clears_after:
            self.on = False
            return "cleared"
        return None

    def state(self) -> dict[str, Any]:
        """In plain values."""
        return {"on": self.on, "flags": self._flags, "quiet": self._quiet}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.on, self._flags, self._quiet = bool(state["on"]), int(state["flags"]), int(state["quiet"])
