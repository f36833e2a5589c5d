"""Adaptation: scores less the running median of the frames that were let pass, for conditions that change slowly.

A calibration cannot know the drive, the season or the camera that comes. Subtracting what has been usual lately repairs
much of that, **at the price that an anomaly that comes slowly, or lasts and is not flagged at once, becomes usual
itself**. The drift martingale sees scores that were not adapted, so what is absorbed here is still declared there.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping
from typing import Any

__all__ = ["RunningMedian"]


class RunningMedian:
    """The median of the last values that were let in; at the start all of them are 0, the usual value of clean images.

    So an offset grows only once more than half of the window has been seen: a stream that begins with an anomaly is
    not measured by it at once.

    Args:
        window: how many values, at least 1.

    Raises:
        ValueError: `window` is less than 1.

    Example:
        >>> median = RunningMedian(3)
        >>> for value in (5.0, 7.0, 6.0):
        ...     median.add(value)
        ...     print(median.value)
        0.0
        5.0
        6.0
    """

    def __init__(self, window: int) -> None:
        if window < 1:
            raise ValueError(f"A running median goes over at least 1 value, not {window}")
        self.window = window
        self._latest = deque([0.0] * window, maxlen=window)
        self._ordered = [0.0] * window

    @property
    def value(self) -> float:
        """The median; of an even number, the mean of the middle two."""
        return (self._ordered[(self.window - 1) // 2] + self._ordered[self.window // 2]) / 2

    def add(self, value: float) -> None:
        """Let a value in, and the oldest go."""
        del self._ordered[bisect_left(self._ordered, self._latest[0])]
        self._latest.append(value)
        insort(self._ordered, value)

    def state(self) -> dict[str, Any]:
        """In plain values."""
        return {"latest": list(self._latest)}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: that one had another window.
        """
        if len(state["latest"]) != self.window:
            raise ValueError(
                f"That median went over {len(state['latest'])} values, and this one goes over {self.window}"
            )
        self._latest = deque(state["latest"], maxlen=self.window)
        self._ordered = sorted(self._latest)
