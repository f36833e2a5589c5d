"""What the flow's index gathers save over FrEIA's dense permutation matrices, at the size DAAIN uses.

Sixteen blocks on 1,784 dimensions, evaluation only. Both run in turn in the same process, and the medians are compared.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from inlier.densities.flow import Flow

__all__ = ["run"]

DIM, BLOCKS, WIDTH = 1784, 16, 10
REQUIRED = 8.0


def run(rounds: int = 100, threads: int = 1) -> list[dict[str, object]]:
    """One row a batch size: our time and FrEIA's in ms, their ratio, and the ratio that is required."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        theirs, ours = _freia(), Flow(DIM, BLOCKS, WIDTH).fused()
        return [_compare(batch, ours, theirs, rounds, threads) for batch in (1, 8)]
    finally:
        torch.set_num_threads(before)


def _freia() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of its docstrings hold invalid escapes
        from FrEIA.framework import SequenceINN  # type: ignore[import-untyped]
        from FrEIA.modules import AllInOneBlock  # type: ignore[import-untyped]

    def subnet(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, outputs))

    flow = SequenceINN(DIM)
    for _ in range(BLOCKS):
        flow.append(AllInOneBlock, subnet_constructor=subnet)
    freia: nn.Module = flow.eval()
    return freia


def _compare(batch: int, ours: nn.Module, theirs: nn.Module, rounds: int, threads: int) -> dict[str, object]:
    x = torch.randn(batch, DIM, generator=torch.Generator().manual_seed(0))
    times: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        for module in (ours, theirs):
            module(x)
        for _ in range(rounds):
            for taken, module in zip(times, (ours, theirs), strict=True):
                taken.append(_milliseconds(module, x))
    ours_ms, theirs_ms = map(median, times)
    return {
        "name": f"flow forward, batch {batch}",
        "ours_ms": ours_ms,
        "theirs_ms": theirs_ms,
        "ratio": theirs_ms / ours_ms,
        "required": REQUIRED,
        "threads": threads,
        "note": f"z and log-determinant, {BLOCKS} blocks, D={DIM}; theirs is FrEIA; {rounds} rounds in turn",
    }


def _milliseconds(call: Callable[[Tensor], object], x: Tensor) -> float:
    start = time.perf_counter()
    call(x)
    return 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    for row in run():
        print(row)
