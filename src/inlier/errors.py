"""Every error that inlier raises on purpose.

InlierError
├── NotFitted      a detector, calibration or monitor was used before it learnt what it needs
├── Mismatch       two things that must belong together do not: weights and artefact, image and key, file and format
└── Unavailable    an optional dependency is missing; the message names the extra to install

Arguments of a wrong value or type raise ValueError or TypeError. A message says what was expected, what came and what
to do.
"""

__all__ = ["InlierError", "Mismatch", "NotFitted", "Unavailable"]


class InlierError(Exception):
    """Base of the errors that inlier raises on purpose."""


class NotFitted(InlierError):
    """Something was used before it was fitted or calibrated."""


class Mismatch(InlierError):
    """Two things that must belong together do not."""


class Unavailable(InlierError):
    """An optional dependency is missing."""
