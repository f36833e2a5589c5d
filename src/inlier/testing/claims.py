"""Claims: functions whose name is a sentence, and which raise `ClaimFailed` with the values if it is not true."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["ClaimFailed", "hold", "hooks_of", "leaving_randomness_alone", "require", "require_close", "require_equal"]

C = TypeVar("C")


class ClaimFailed(AssertionError):
    """Something registered does not do what its kind promises."""


def hold(subject: str, claims: Sequence[Callable[[C], None]], case: C) -> None:
    """Try all claims, so that one run tells everything that is wrong.

    Raises:
        ClaimFailed: some do not hold, or could not be tried for an error.
    """
    failed: list[str] = []
    cause: Exception | None = None
    for claim in claims:
        try:
            claim(case)
        except Exception as error:  # whatever somebody else's code raises is what is told
            told = str(error)
            if not isinstance(error, ClaimFailed):
                told, cause = f"{type(error).__name__}: {error}", error
            failed.append(f"  - {claim.__name__.replace('_', ' ')}: {told}")
    if failed:
        told = "\n".join(failed)
        raise ClaimFailed(f"{subject}: {len(failed)} of {len(claims)} claims do not hold:\n{told}") from cause


def require(holds: bool, told: str) -> None:
    """Fail with what was found. (`assert` would be left out under `python -O`.)"""
    if not holds:
        raise ClaimFailed(told)


def require_equal(found: Tensor, expected: Tensor, told: str) -> None:
    """Fail unless both are the same, bit for bit."""
    require(torch.equal(found, expected), f"{told}: {difference(found, expected)}")


def require_close(found: Tensor, expected: Tensor, told: str, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Fail unless both are the same up to rounding."""
    close = found.shape == expected.shape and torch.allclose(found, expected, rtol=rtol, atol=atol)
    require(close, f"{told}: {difference(found, expected)}")


def difference(found: Tensor, expected: Tensor) -> str:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"{found.dtype} of shape {tuple(found.shape)}, not {expected.dtype} of shape {tuple(expected.shape)}"
    gaps = (found.double() - expected.double()).abs()
    where = int(gaps.nan_to_num(nan=torch.inf).argmax())
    one, other = found.flatten()[where].item(), expected.flatten()[where].item()
    return f"{one:.6g} and {other:.6g} at place {where}, where they differ most"


def hooks_of(module: nn.Module) -> list[str]:
    """Names of the modules on which somebody's hook, or stand-in for `forward`, has been left."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        name or "(the network itself)"
        for name, part in module.named_modules()
        if "forward" in vars(part) or any(getattr(part, kind) for kind in kinds)
    ]


@contextmanager
def leaving_randomness_alone(what: str) -> Iterator[None]:
    """Fail if a global random generator (of PyTorch, NumPy or Python) is used within this context."""
    before = states()
    yield
    for name, state in states().items():
        remedy = "draw from the generator or seed that is handed over"
        require(state == before[name], f"{what} uses the global random generator of {name}; {remedy}")


def states() -> dict[str, Any]:
    legacy: Any = np.random.get_state()
    return {
        "PyTorch": torch.get_rng_state().numpy().tobytes(),
        "NumPy": (legacy[1].tobytes(), *legacy[2:]),
        "Python": random.getstate(),
    }
