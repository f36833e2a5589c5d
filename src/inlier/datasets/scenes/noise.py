"""Noise that tiles the plane: clouds, and the grain of every surface."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float32, Int64

__all__ = ["PERIOD", "noise_at"]

PERIOD = 256  # after which the noise repeats itself; a power of two


def noise_at(
    finest: int, rows: Int64[np.ndarray, "h #w"], columns: Int64[np.ndarray, "*rows w"]
) -> Float32[np.ndarray, "h w"]:
    """Noise in [-1, 1], mean 0 over a period, whose smallest cells are `finest` wide."""
    noise: Float32[np.ndarray, "h w"] = _tile(finest)[rows & (PERIOD - 1), columns & (PERIOD - 1)]
    return noise


@functools.cache
def _tile(finest: int) -> Float32[np.ndarray, "period period"]:
    """One period: octaves from 4 cells down to cells of `finest` pixels.

    Linear interpolation of random lattices uses sums and products alone, so that no machine's libm shows in it.
    """
    rng = np.random.default_rng([PERIOD, finest])
    total = np.zeros((PERIOD, PERIOD), np.float32)
    cells, weight = 4, 1.0
    while cells <= PERIOD // finest:
        lattice = rng.random((cells, cells), np.float32) - np.float32(0.5)
        total += np.float32(weight) * _stretched(_stretched(lattice).T).T
        cells, weight = cells * 2, weight * 0.7
    total -= total.mean()
    total /= np.abs(total).max()
    return total


def _stretched(lattice: Float32[np.ndarray, "rows columns"]) -> Float32[np.ndarray, "period columns"]:
    """Rows interpolated to a whole period."""
    position = np.arange(PERIOD, dtype=np.float32) * np.float32(len(lattice) / PERIOD)
    lower = position.astype(np.intp)
    share = (position - lower.astype(np.float32))[:, None]
    stretched: Float32[np.ndarray, "period columns"] = (
        lattice[lower] * (1 - share) + lattice[(lower + 1) % len(lattice)] * share
    )
    return stretched
