"""What is counted is what a calculation by hand gives, and time is taken in turns."""

import pytest
import torch
from torch import nn

import inlier.evaluation.cost as cost_module
from inlier.densities.flow import Flow
from inlier.evaluation.cost import (
    Cost,
    cost_of,
    count_operations,
    count_parameters,
    milliseconds,
    overhead,
)


def test_parameters_are_the_trainable_ones_and_shared_ones_count_once():
    shared = nn.Linear(3, 4)
    network = nn.Sequential(shared, nn.ReLU(), shared, nn.BatchNorm1d(4))
    assert count_parameters(network) == 3 * 4 + 4 + 4 + 4  # running statistics are no parameters
    shared.bias.requires_grad_(False)
    assert count_parameters(network) == 3 * 4 + 4 + 4


@pytest.mark.parametrize(
    ("call", "flops"),
    [
        (lambda: torch.ones(5, 7) @ torch.ones(7, 3), 2 * 5 * 7 * 3),
        (lambda: torch.ones(2, 5, 7) @ torch.ones(2, 7, 3), 2 * 2 * 5 * 7 * 3),
        (lambda: nn.functional.linear(torch.ones(5, 7), torch.ones(3, 7), torch.ones(3)), 2 * 5 * 7 * 3),
        (lambda: torch.ones(5, 7) @ torch.ones(7), 2 * 5 * 7),
        (lambda: torch.addmv(torch.ones(5), torch.ones(5, 7), torch.ones(7)), 2 * 5 * 7),
        (lambda: torch.ones(7) @ torch.ones(7), 2 * 7),
        (lambda: torch.einsum("ij,kj->ik", torch.ones(5, 7), torch.ones(3, 7)), 2 * 5 * 7 * 3),
        (lambda: nn.functional.conv2d(torch.ones(2, 6, 9, 9), torch.ones(4, 3, 3, 3), groups=2), 2 * (2 * 4 * 49) * 27),
        (lambda: torch.cdist(torch.ones(40, 6), torch.ones(50, 6)), 2 * 40 * 50 * 6),
        (lambda: torch.cdist(torch.ones(4, 6), torch.ones(5, 6), p=1), 2 * 4 * 5 * 6),
        (lambda: nn.functional.scaled_dot_product_attention(*[torch.ones(2, 3, 5, 8)] * 3), 2 * 2 * 6 * 5 * 5 * 8),
    ],
    ids=["mm", "bmm", "addmm", "mv", "addmv", "dot", "einsum", "conv", "cdist", "cdist1", "attention"],
)
@pytest.mark.parametrize("without", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_multiply_add_is_two_operations(call, flops, without):
    with without():
        assert count_operations(call).flops == flops


def test_backward_passes_count():
    weight = torch.ones(7, 3, requires_grad=True)
    call = lambda: (torch.ones(5, 7) @ weight).sum().backward()  # noqa: E731 (a lambda is what is passed)
    assert count_operations(call).flops == 2 * (2 * 5 * 7 * 3)  # the product, and the gradient of its weight


def test_a_gradient_that_is_asked_for_through_modules_counts():
    network, images = nn.Sequential(nn.Linear(5, 3)), torch.ones(2, 5, requires_grad=True)
    found = count_operations(lambda: torch.autograd.grad(network(images).sum(), images))
    assert found.flops == 2 * (2 * 5 * 2 * 3)  # the product, and the gradient of the input


def test_what_is_written_is_counted_and_what_is_only_looked_at_is_not():
    x, index = torch.ones(4, 6), torch.tensor([5, 0, 3])
    for call, written in (
        (lambda: x.relu(), 24),
        (lambda: x.clone().relu_(), 48),
        (lambda: x.T.reshape(2, 12)[0], 24),  # the reshaping of a transposed matrix copies it
        (lambda: x.view(2, 12)[:, 3:].T.unsqueeze(0).expand(5, -1, -1), 0),
        (lambda: x.index_select(1, index), 12),
        (lambda: x.sum(1), 4),
        (lambda: x @ x.T, 0),
    ):
        assert count_operations(call).written == written


def test_counting_leaves_no_trace():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).eval()
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = network(images)
    with pytest.raises(RuntimeError):
        count_operations(lambda: network(images[:, :2]))
    assert count_operations(lambda: network(images)).flops == 2 * 4 * 36 * 27
    assert torch.equal(network(images), before)
    assert all(not module._forward_hooks for module in network.modules())


def test_a_batch_costs_as_many_operations_as_its_images():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    one, four = (count_operations(lambda n=n: network(torch.zeros(n, 3, 8, 8))) for n in (1, 4))
    assert four.flops == 4 * one.flops > 0


@pytest.mark.parametrize(("blocks", "printed"), [(16, 5.1e7), (8, 2.6e7)])
def test_table_2_of_daain_counts_multiply_adds_and_nearly_all_are_permutations(blocks, printed):
    flow, dim = Flow(1784, blocks=blocks, width=10), 1784
    networks = blocks * (892 * 10 + 10 * 2 * 892)
    with torch.no_grad():
        ours = count_operations(lambda: flow(torch.zeros(1, dim)))
    assert ours.flops == 2 * networks
    assert float(f"{networks + blocks * dim**2:.1e}") == printed
    assert blocks * dim < ours.written  # the gathers, which stand for the products


class Clock:
    """Time that passes only while a call runs."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.log = []
        monkeypatch.setattr(cost_module, "perf_counter", lambda: self.now)

    def call(self, name, *lengths):
        """A call that takes so many milliseconds, one after the other, the last again and again."""
        left = list(lengths)

        def run():
            self.log.append(name)
            self.now += (left.pop(0) if len(left) > 1 else left[0]) / 1000

        return run


def test_milliseconds_are_a_median_and_the_first_call_does_not_count(monkeypatch):
    clock = Clock(monkeypatch)
    assert milliseconds(clock.call("x", 900, 5, 1, 3), repeats=3) == pytest.approx(3)
    assert clock.log == ["x"] * 4
    with pytest.raises(ValueError, match="at least 1 repeat, not 0"):
        milliseconds(clock.call("x", 1), repeats=0)


def test_two_calls_take_turns_and_every_other_pair_is_reversed(monkeypatch):
    clock = Clock(monkeypatch)
    told = overhead(clock.call("a", 99, 2), clock.call("b", 99, 3), repeats=4)
    assert clock.log == list("ab" + "ab" + "ba" + "ab" + "ba")
    assert (told.bare, told.monitored) == (pytest.approx(2), pytest.approx(3))
    assert told.ratio.value == pytest.approx(1.5)
    assert told.ratio.low == -float("inf")  # four pairs are too few for an interval at 95 %


def test_a_machine_that_slows_down_does_not_change_the_ratio(monkeypatch):
    clock = Clock(monkeypatch)
    slow = [2.0**k for k in range(12)]
    told = overhead(clock.call("a", 1, *slow), clock.call("b", 1, *(1.25 * s for s in slow)), repeats=12)
    assert told.ratio == pytest.approx((1.25, 1.25, 1.25))


def test_the_interval_of_the_ratio_is_where_most_pairs_are(monkeypatch):
    clock = Clock(monkeypatch)
    told = overhead(clock.call("a", 1), clock.call("b", 1, *range(1, 21)), repeats=20)
    assert told.ratio == pytest.approx((10.5, 6, 15))  # P(Binomial(20, 1/2) < 6) = 0.021


def test_the_cost_of_a_call():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    told = cost_of(network, lambda: network(torch.zeros(2, 3)), batch=2, passes=1, repeats=3)
    assert told == Cost(16, 2 * 2 * 3 * 4, told.written, told.milliseconds, 1, 2)
    assert told.written == 6 + 8  # the zeros, and what the ReLU makes of the product
    assert told.milliseconds > 0
