"""What a network and a monitor cost: parameters, floating-point operations, time.

Operations are counted while a call runs, so that they are those of the code that runs and not of a formula beside it.
Times are medians; two calls are compared by running them in turns, because a machine is not equally fast all day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from time import perf_counter
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from torch.utils.module_tracker import ModuleTracker

from inlier.evaluation.intervals import Interval, median_interval

__all__ = [
    "Cost", "Operations", "Overhead", "cost_of", "count_operations", "count_parameters", "milliseconds", "overhead",
]  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What one call costs.

    Args:
        parameters: trainable numbers.
        flops: floating-point operations of all matrix products, convolutions and attention of the call, that is of
            the whole batch; a multiply-add is two. DAAIN's Table 2 counts it as one.
        written: numbers that all other operations of the call write; see `Operations`.
        milliseconds: the median time of the call.
        passes: forward passes of the network in it.
        batch: images in it.
    """

    parameters: int
    flops: int
    written: int
    milliseconds: float
    passes: int
    batch: int


class Operations(NamedTuple):
    """What a call computes.

    Args:
        flops: of matrix products, convolutions, attention and distances between rows; a multiply-add is two.
        written: how many numbers everything else writes: elementwise functions, gathers, reductions, sorting, copies.
            What is only looked at differently, such as a transposed matrix, is not written.
    """

    flops: int
    written: int


@dataclass(frozen=True)
class Overhead:
    """How long a call takes beside another.

    Args:
        bare, monitored: median milliseconds.
        ratio: monitored over bare: the median over the pairs of runs, and the interval of that median.
    """

    bare: float
    monitored: float
    ratio: Interval


def count_parameters(module: nn.Module) -> int:
    """How many trainable numbers a module has; shared ones count once, buffers do not (Table 2's NP of DAAIN)."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_operations(call: Callable[[], object]) -> Operations:
    """What a call computes, its backward passes included; counted while it runs once.

    Operations that a compiled or scripted function fuses are not seen; count the function that it was made of. The
    first count of a process takes longer: it loads PyTorch's tracing.
    """
    # Differs from Table 2 of DAAIN (von Baußnern et al. 2021), whose FLOP are multiply-adds: its 5.1e7 are 16 dense
    # products with permutation matrices of 1784 x 1784, and hardly anything else. The flow here gathers instead, which
    # is no floating-point operation; it shows in `written`.
    counter = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)
    counter.mod_tracker = _Everywhere()
    with _Written(counter.flop_registry) as written, counter:  # the counter sees operations first, and in small
        call()
    return Operations(counter.get_total_flops(), written.total)


class _Everywhere(ModuleTracker):
    """Does not tell modules apart, since only the total is asked for: following them fails under `autograd.grad`."""

    def __init__(self) -> None:
        super().__init__()
        self.parents = {"Global"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def milliseconds(call: Callable[[], object], repeats: int = 15) -> float:
    """The median time of a call, after one that does not count; on a CUDA device, until its work is done.

    Raises:
        ValueError: `repeats` is below 1.
    """
    check_repeats(repeats)
    timed(call)
    times = sorted(timed(call) for _ in range(repeats))
    return times[repeats // 2]


def overhead(
    bare: Callable[[], object], monitored: Callable[[], object], repeats: int = 15, confidence: float = 0.95
) -> Overhead:
    """How many times as long one call takes as another, from runs in turns; every other pair in reverse order.

    Both run once before it counts. The interval of the ratio is exact for any distribution of times, if the pairs are
    independent; fewer than 6 pairs have none at 95 % (see `median_interval`).

    Raises:
        ValueError: `repeats` is below 1, or `confidence` not in (0, 1).
    """
    check_repeats(repeats)
    calls = (bare, monitored)
    for call in calls:
        timed(call)
    pairs = []
    for number in range(repeats):
        first = number % 2
        times = {which: timed(calls[which]) for which in (first, 1 - first)}
        pairs.append((times[0], times[1]))
    ratio = median_interval([watched / alone for alone, watched in pairs], confidence)
    alone, watched = (sorted(times)[repeats // 2] for times in zip(*pairs, strict=True))
    return Overhead(alone, watched, ratio)


def cost_of(module: nn.Module, call: Callable[[], object], *, batch: int, passes: int = 1, repeats: int = 15) -> Cost:
    """Everything about one call: parameters of the module, and operations and time of the call without gradients.

    Args:
        module: whose parameters count.
        call: what is run; it takes nothing.
        batch: images that it handles.
        passes: forward passes that it makes, as an `Observation` counts them.
        repeats: of the timing.

    Raises:
        ValueError: `repeats` is below 1.
    """
    with torch.no_grad():
        operations = count_operations(call)
        return Cost(count_parameters(module), *operations, milliseconds(call, repeats), passes, batch)


def timed(call: Callable[[], object]) -> float:
    """Milliseconds of one run."""
    synchronise()
    start = perf_counter()
    call()
    synchronise()
    return 1000 * (perf_counter() - start)


def synchronise() -> None:
    """Wait for CUDA, if this process has used it: its kernels run on while Python goes ahead."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def check_repeats(repeats: int) -> None:
    if repeats < 1:
        raise ValueError(f"A time needs at least 1 repeat, not {repeats}.")


class _Written(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the numbers that operations outside a table write."""

    def __init__(self, elsewhere: Mapping[Any, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elsewhere = elsewhere
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in self.elsewhere or packet in ALLOCATIONS:
            return out
        read = {tensor.untyped_storage().data_ptr() for tensor in tensors((args, kwargs))}
        self.total += sum(
            tensor.numel()
            for tensor in tensors(out)
            if func._schema.is_mutable or tensor.untyped_storage().data_ptr() not in read
        )
        return out


def tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _vectors(left: Sequence[int], right: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * prod(left)  # every number of the left side meets one of the right


def _added_vectors(_: Sequence[int], left: Sequence[int], *__: Any, **___: Any) -> int:
    return 2 * prod(left)


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _distances(rows: Sequence[int], _: Sequence[int], *__: Any, out_shape: Sequence[int], **___: Any) -> int:
    return 2 * prod(out_shape) * rows[-1]


ALLOCATIONS = {torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.empty_strided, torch.ops.aten.new_empty}
UNCOUNTED = {
    torch.ops.aten.mv: _vectors,
    torch.ops.aten.dot: _vectors,
    torch.ops.aten.addmv: _added_vectors,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._euclidean_dist: _distances,
    torch.ops.aten._cdist_forward: _distances,
}
"""Products that torch's own counter passes over, by their formulas in terms of shapes."""
