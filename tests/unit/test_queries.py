"""Attacks that may only ask: in the ball, within the budget, never worse than the start, and as the algorithms say."""

import math

import pytest
import torch
from torch import nn

from inlier.attacks.queries import rays, share_at, spsa, square

GENERATOR = torch.Generator().manual_seed(0)
WEIGHTS = torch.randn(3, 6, 6, generator=GENERATOR)


def linear(offset=0.0):
    def oracle(images):
        return (images * WEIGHTS).sum((1, 2, 3)) - offset

    return oracle


@pytest.fixture
def images():
    return 0.3 + 0.4 * torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


ATTACKS = {
    "spsa": (lambda oracle, images, **more: spsa(oracle, images, 0.05, steps=20, samples=32, **more), 1 + 20 * 33),
    "square": (lambda oracle, images, **more: square(oracle, images, 0.05, queries=300, **more), 300),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_found_is_in_the_ball_better_and_within_the_budget(name, images):
    attack, most = ATTACKS[name]
    oracle = linear()
    found = attack(oracle, images, win=math.inf)
    assert (found.images - images).abs().max() <= 0.05 + 1e-6
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    torch.testing.assert_close(found.values, oracle(found.images))
    assert (found.values > oracle(images)).all()
    assert (found.queries <= most).all()
    assert not found.won.any()
    again = attack(oracle, images, win=math.inf)
    assert torch.equal(found.images, again.images)
    assert not torch.equal(found.images, attack(oracle, images, win=math.inf, seed=1).images)


def test_spsa_finds_most_of_what_a_gradient_would(images):
    best = (0.05 * WEIGHTS.abs()).sum()
    found = spsa(linear(), images, 0.05, steps=60, samples=128, win=math.inf)
    assert ((found.values - linear()(images)) / best > 0.8).all()


def test_queries_are_those_that_the_oracle_got(images):
    for name, (attack, _) in ATTACKS.items():
        asked = 0

        def oracle(batch):
            nonlocal asked
            asked += len(batch)
            return linear()(batch)

        found = attack(oracle, images, win=math.inf)
        assert asked == found.queries.sum(), name


@pytest.mark.parametrize("name", ATTACKS)
def test_who_has_won_costs_no_more_queries(name, images):
    attack, most = ATTACKS[name]
    start = linear()(images)
    needed = torch.tensor([-1.0, 0.01, 0.1, 1e6])  # the first has won as it is, the last never does

    def oracle(batch):
        nearest = (batch[:, None] - images[None]).flatten(2).abs().amax(2).argmin(1)
        return linear()(batch) - (start + needed)[nearest]

    found = attack(oracle, images)
    assert found.won.tolist() == [True, True, True, False]
    assert torch.equal(found.images[0], images[0])
    assert found.queries[0] == 1
    assert found.queries[1] <= found.queries[2] < found.queries[3]
    assert found.queries[3] == most


def test_squares_shrink_as_the_paper_says():
    marks = [(5, 0.8), (20, 0.4), (100, 0.2), (300, 0.1), (700, 0.05), (1500, 0.025), (9000, 0.8 / 512)]
    assert [share_at(q, 10_000, 0.8) for q, _ in marks] == pytest.approx([share for _, share in marks])
    assert share_at(500, 5_000, 0.8) == share_at(1000, 10_000, 0.8)


def test_an_oracle_that_fails_to_answer_for_each_is_refused(images):
    with pytest.raises(ValueError, match="one value an image"):
        square(lambda batch: torch.zeros(()), images, 0.05)


IMPOSSIBLE = [(spsa, {"samples": 3}), (spsa, {"delta": 0}), (square, {"queries": 1}), (square, {"share": 0})]


@pytest.mark.parametrize(("attack", "settings"), [*IMPOSSIBLE, (rays, {"queries": 1})])
def test_settings_that_cannot_be_are_refused(attack, settings, images):
    with pytest.raises(ValueError, match="needs"):
        attack(linear(), images, 0.05, **settings)


# --- hard labels -----------------------------------------------------------------------------------------------------


def test_rays_come_near_the_true_distance_of_a_plane(images):
    gap = 0.05 * WEIGHTS.abs().sum()  # so that the nearest vertex wins at .05 exactly
    limit = linear()(images).max() + gap

    def decision(batch):
        return linear()(batch) >= limit

    found = rays(decision, images, 0.0, queries=3000)
    exact = (limit - linear()(images)) / WEIGHTS.abs().sum()
    assert decision(found.images).all()
    distance = (found.images - images).abs().flatten(1).amax(1)
    torch.testing.assert_close(distance, -found.values, atol=2e-6, rtol=1e-5)
    assert (distance >= exact - 1e-3).all()
    assert (distance <= 1.6 * exact).all()
    assert (found.queries <= 3000).all()


def test_rays_stop_within_eps_and_leave_alone_who_has_won(images):
    limit = linear()(images).median()

    def decision(batch):
        return linear()(batch) >= limit

    found = rays(decision, images, 0.2, queries=2000)
    started = decision(images)
    assert torch.equal(found.images[started], images[started])
    assert (found.queries[started] == 1).all()
    assert found.won.all()
    assert (found.queries < 2000).all()


def test_rays_that_never_win_return_the_image(images):
    found = rays(lambda batch: torch.zeros(len(batch), dtype=torch.bool), images, 0.1, queries=50)
    assert torch.equal(found.images, images)
    assert not found.won.any()
    assert (found.values == -math.inf).all()
    assert (found.queries == 50).all()


def test_square_breaks_a_network_that_has_no_gradient():
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    images = torch.rand(6, 3, 6, 6, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        labels = network(images).argmax(1)

    def margin(batch):
        logits = network((batch * 8).round() / 8)  # steps: zero gradient wherever there is one
        nearest = (batch[:, None] - images[None]).flatten(2).abs().amax(2).argmin(1)
        own = labels[nearest][:, None]
        return logits.scatter(1, own, -torch.inf).amax(1) - logits.gather(1, own)[:, 0]

    assert square(margin, images, 0.2, queries=400).won.float().mean() > 0.8


@pytest.mark.parametrize("name", ATTACKS)
def test_a_start_is_brought_into_the_ball_and_gone_on_from(name, images):
    attack, most = ATTACKS[name]
    oracle, start = linear(), images + 0.5 * WEIGHTS.sign()  # the corner of the ball that is best, once it is there
    best = oracle(images + 0.05 * WEIGHTS.sign())
    found = attack(oracle, images, win=math.inf, initial=start)
    torch.testing.assert_close(found.values, best)
    assert (found.images - images).abs().max() <= 0.05 + 1e-6
    assert (found.queries <= most + 1).all()
    worse = attack(oracle, images, win=math.inf, initial=images - 0.05 * WEIGHTS.sign())
    assert (worse.values >= oracle(images)).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_who_has_won_is_not_asked_about_a_start(name, images):
    attack, _ = ATTACKS[name]
    found = attack(linear(), images, win=-math.inf, initial=images + 1)
    assert torch.equal(found.images, images)
    assert (found.queries == 1).all()
