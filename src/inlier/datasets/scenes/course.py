"""How a street runs, and how wide its parts are.

Positions on it are (metres across, metres ahead): the middle of the road is 0 across, wherever the street bends.
"""

from __future__ import annotations

import math

import numpy as np

from inlier.datasets.scenes.view import Point
from inlier.datasets.scenes.worlds import World

__all__ = ["Course"]


class Course:
    """A street's course under the camera, which stands in a lane of it.

    `hand` is the side that is driven on (-1 left, 1 right), `lanes` their number in each direction and `lane` the
    width of one; the road ends `half` from its middle, the pavement `kerb` further. A junction lies between its two
    distances, which are infinite where there is none.
    """

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.hand = 1 if world.drives_on == "right" else -1
        self.lanes = int(rng.choice([1, 1, 1, 2]))
        self.lane = rng.uniform(2.9, 3.5)
        self.parking = rng.uniform(2.0, 2.3) if rng.random() < 0.55 else 0.4
        self.half = self.lanes * self.lane + self.parking
        self.kerb = rng.uniform(1.8, 4.2)
        self.position = -self.hand * (self.lanes - 0.5) * self.lane + rng.uniform(-0.3, 0.3)
        self.heading = rng.uniform(-0.05, 0.05)
        self.bend = rng.uniform(-1, 1) * float(rng.choice([0.0006, 0.0025, 0.006]))
        start = rng.uniform(9, 45)
        self.junction = (start, start + rng.uniform(7, 12)) if rng.random() < 0.5 else (math.inf, math.inf)

    def x(self, across: float, z: float) -> float:
        """How far to the right of the camera a position on the street is."""
        return self.position + z * (self.heading + z * self.bend / 2) + across

    def at(self, across: float, z: float) -> Point:
        """A position on the street, in space."""
        return (self.x(across, z), 0.0, z)

    def direction(self, z: float) -> float:
        """The street's angle to the view at z, in radians."""
        return math.atan(self.heading + z * self.bend)

    def strip(self, left: float, right: float, start: float, end: float) -> list[Point]:
        """The outline of a band along the street, bent with it."""
        count = max(2, int(6 * math.log(end / start)) + 2)
        zs = [start * (end / start) ** (k / (count - 1)) for k in range(count)]
        return [*(self.at(left, z) for z in zs), *(self.at(right, z) for z in reversed(zs))]

    def in_junction(self, z: float, margin: float) -> bool:
        """Whether z lies in the junction or less than `margin` metres from it."""
        return self.junction[0] - margin < z < self.junction[1] + margin
