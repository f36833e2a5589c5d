"""Images that are done leave an attack; stages; steppers that look around; joint rules: each against a plain loop."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inlier.attacks.constraints import L2Ball, LinfBall, SharedDelta, Unbounded
from inlier.attacks.engine import Attack
from inlier.attacks.objectives import (
    Dual,
    averaged,
    cross_entropy,
    evasion,
    fooled,
    n_plus_one,
    unseen,
)
from inlier.attacks.recipes import apgd, pgd, staged
from inlier.attacks.steppers import Adamax, AutoStep, Cosine, MomentumSign, PeakStep, SignStep, checkpoints
from inlier.backbones.base import Backbone, Classification
from inlier.probe import Probe

NAMES = ("cat", "dog", "cow", "void")


def classifier(seed=0):
    network = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(54, 4))
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.ndim > 1 else 0.1)
    return Backbone(network, Classification(NAMES), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


@pytest.fixture
def probe():
    return Probe(classifier())


@pytest.fixture
def images():
    return torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))


# --- leaving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize(
    "stepper", [SignStep(0.001), MomentumSign(0.001), Adamax(0.001)], ids=lambda s: type(s).__name__
)
def test_an_image_that_leaves_is_what_it_is_attacked_alone_until_it_is_wrong(probe, images, keep, stepper):
    attack = Attack(LinfBall(0.01), stepper, 25, keep=keep, stop=fooled(1.0))
    together = attack(probe, images)
    assert 0 < together.success(1.0).sum() < len(images)  # some leave, some stay
    assert len(set(together.moves.tolist())) > 2
    for i in range(len(images)):
        steps = max(1, int(together.moves[i]))
        alone = Attack(LinfBall(0.01), stepper, steps, keep=keep)(probe, images[i : i + 1])
        torch.testing.assert_close(together.images[i : i + 1], alone.images)
        wrong = bool(together.success(1.0)[i])
        assert wrong == (int(together.moves[i]) < 25 or bool(alone.success(1.0)))
        if wrong and steps > 1:
            before = Attack(LinfBall(0.01), stepper, steps - 1, keep="last")(probe, images[i : i + 1])
            assert not before.success(1.0).any()  # it left at once


def test_what_left_keeps_its_last_values_in_trace_and_path(probe, images):
    result = Attack(LinfBall(0.05), SignStep(0.004), 25, stop=fooled(1.0))(probe, images)
    assert result.trace.isfinite().all()
    for i, moves in enumerate(result.moves.tolist()):
        assert (result.trace[0, moves:, i] == result.trace[0, moves, i]).all()
        assert (result.path["Linf"][moves:, i] == result.path["Linf"][moves, i]).all()
    torch.testing.assert_close(result.path["L2"][-1], result.norms["L2"])
    torch.testing.assert_close(result.path["Linf"][-1], result.norms["Linf"])
    assert result.path["L2"][0].count_nonzero() == 0


def test_restarts_go_on_with_those_that_are_left_alone(probe, images):
    once = pgd(eps=0.03, steps=6, restarts=1)
    attack = Attack(once.constraint, once.stepper, 6, start="random", keep="best", restarts=5, stop=fooled(1.0))
    seen = []

    def counting(observation, context):
        seen.append(len(observation.output))
        return cross_entropy(observation, context)

    result = attack(probe, images, counting)
    assert seen[0] == len(images)
    assert sorted(seen[1:], reverse=True) == seen[1:]
    assert seen[-1] < len(images)
    assert (result.moves[result.success(1.0)] < 30).all()
    assert (result.moves[~result.success(1.0)] == 30).all()


def test_an_attack_whose_images_are_all_done_ends(probe, images):
    result = Attack(Unbounded(), SignStep(0.05), 500, stop=fooled(1.0))(probe, images)
    assert result.success(1.0).all()
    assert result.forwards < 200


def test_one_delta_for_all_cannot_lose_an_image(probe, images):
    attack = Attack(LinfBall(0.05), SignStep(0.01), 2, parametrisation=SharedDelta(), stop=fooled(1.0))
    with pytest.raises(ValueError, match="one delta"):
        attack(probe, images)


# --- stages ----------------------------------------------------------------------------------------------------------


def test_a_schedule_begins_in_a_larger_ball_and_ends_in_its_own(probe, images):
    schedule = ((0.5, 2.0), (0.5, 1.0))
    result = Attack(LinfBall(0.02), SignStep(0.01), 10, schedule=schedule)(probe, images)
    largest = result.path["Linf"].amax(1)
    assert largest[4].item() == pytest.approx(0.04, abs=1e-6)
    assert (largest[5:] <= 0.02 + 1e-6).all()
    best = Attack(LinfBall(0.02), SignStep(0.01), 10, schedule=schedule, keep="best")(probe, images)
    assert best.norms["Linf"].max() <= 0.02 + 1e-6
    assert (staged(0.02, 30)(probe, images).norms["Linf"] <= 0.02 + 1e-6).all()


@pytest.mark.parametrize("schedule", [((0.5, 2.0), (0.4, 1.0)), ((0.5, 1.0), (0.5, 2.0)), ((1.0, 0.0),)])
def test_a_schedule_that_cannot_be_is_refused(schedule):
    with pytest.raises(ValueError, match="schedule"):
        Attack(LinfBall(0.02), SignStep(0.01), 10, schedule=schedule)


# --- steppers --------------------------------------------------------------------------------------------------------


def test_adamax_is_that_of_pytorch():
    target = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    theirs = torch.zeros_like(target, requires_grad=True)
    optimiser = torch.optim.Adamax([theirs], lr=0.1, maximize=True)
    ours, stepper = torch.zeros_like(target), Adamax(0.1)
    state = stepper.init(ours)
    for _ in range(20):
        optimiser.zero_grad()
        (-((theirs - target) ** 2)).sum().backward()
        optimiser.step()
        move, state = stepper.update(-2 * (ours - target), state)
        ours = ours + move
    torch.testing.assert_close(ours, theirs.detach())


def test_the_first_step_of_adamax_is_as_long_as_said_whatever_the_gradient():
    gradient = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for unit in ("none", "l2", "sign"):
        stepper = Adamax(0.1, unit=unit, epsilon=0.0)
        move, _ = stepper.update(1e-3 * gradient, stepper.init(gradient))
        torch.testing.assert_close(move, 0.1 * gradient.sign())


def test_a_peak_step_moves_the_largest_entry_by_its_size():
    gradient = torch.tensor([1.0, -4.0, 2.0]).view(1, 3, 1, 1)
    move, _ = PeakStep(0.2).update(gradient, None)
    torch.testing.assert_close(move.flatten(), torch.tensor([0.05, -0.2, 0.1]))


def test_cosine_shrinks_the_moves_of_another():
    gradient = torch.ones(1, 1, 1, 1)
    stepper = Cosine(SignStep(1.0), 4)
    state, moves = stepper.init(gradient), []
    for _ in range(6):
        move, state = stepper.update(gradient, state)
        moves.append(move.item())
    assert moves == pytest.approx([0.5 + 0.5 * math.cos(math.pi * min(t, 4) / 4) for t in range(6)])


def plain_apgd(backbone, clean, start, labels, eps, steps, norm):
    """Algorithm 1 of arXiv:2003.01690 for one image, as it stands there; ascent of the cross-entropy."""

    def project(x):
        delta = x - clean
        if norm == "linf":
            delta = delta.clamp(-eps, eps)
        else:
            length = delta.flatten().norm()
            delta = delta if length <= eps else delta * (eps / length)
        return (clean + delta).clamp(0, 1)

    def climb(x):
        leaf = x.clone().requires_grad_()
        value = F.cross_entropy(backbone(leaf), labels)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), gradient.sign() if norm == "linf" else gradient / gradient.flatten().norm()

    marks = checkpoints(steps)
    size, values, xs = 2 * eps, [], [start]
    value, slope = climb(start)
    values.append(value)
    best, best_value, best_slope = start, value, slope
    at, before = start, start
    since, halved = value, False
    for k in range(steps):
        if k in marks[1:]:
            first = marks[marks.index(k) - 1]
            rises = sum(values[i + 1] > values[i] for i in range(first, k))
            if rises < 0.75 * (k - first) or (not halved and since >= best_value):
                size, halved, at, slope = size / 2, True, best, best_slope
            else:
                halved = False
            since = best_value
        ahead = project(at + size * slope)
        if k > 0:
            ahead = project(at + 0.75 * (ahead - at) + 0.25 * (at - before))
        before, at = at, ahead
        xs.append(ahead)
        value, slope = climb(ahead)
        values.append(value)
        if value > best_value:
            best, best_value, best_slope = ahead, value, slope
    return best, best_value


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.03), ("l2", 0.4)])
def test_auto_pgd_is_its_algorithm(probe, images, norm, eps):
    probe, images = Probe(probe.backbone.double()), images.double()  # a sign near zero is decided alike in both
    ball = LinfBall(eps) if norm == "linf" else L2Ball(eps)
    attack = Attack(ball, AutoStep(eps, 30, norm), 30, keep="best")
    labels = probe.backbone.predict(images)
    start = ball.draw(images, torch.Generator().manual_seed(5))
    result = attack(probe, images, initial=start, labels=labels)
    for i in range(len(images)):
        best, value = plain_apgd(probe.backbone, images[i : i + 1], start[i : i + 1], labels[i : i + 1], eps, 30, norm)
        torch.testing.assert_close(result.trace[0, :, i].max().item(), value, rtol=1e-6, atol=0)
        torch.testing.assert_close(result.images[i : i + 1], best, rtol=0, atol=1e-9)


def test_auto_pgd_halves_its_steps_image_by_image():
    stepper = AutoStep(0.1, 100)
    parameters = torch.zeros(2, 1, 1, 1)
    state = stepper.init(parameters)
    from inlier.attacks.steppers import Where

    for k in range(23):
        values = torch.tensor([float(k), 0.0])  # the first rises at every step, the second never
        _, state = stepper.update(torch.ones(2, 1, 1, 1), state, Where(parameters, values, lambda x: x))
    assert state.size.tolist() == pytest.approx([0.2, 0.1])


def test_auto_pgd_is_no_weaker_than_pgd_of_as_many_steps(probe, images):
    labels = probe.backbone.predict(images)
    ours = apgd(0.02, steps=40)(probe, images, labels=labels, seed=0)
    theirs = pgd(0.02, steps=40)(probe, images, labels=labels, seed=0)
    assert ours.damage.sum() >= theirs.damage.sum()


# --- joint attacks ---------------------------------------------------------------------------------------------------


def brightness(observation):
    """A score that an attack has to keep low: how far the mean is from that of the image as it was."""
    return 100 * (observation.images.mean((1, 2, 3)) - 0.5).abs()


LIMIT = 1.0


def test_a_dual_attack_errs_and_stays_under_the_limit_where_a_plain_one_is_flagged(probe, images):
    clean = images - images.mean((1, 2, 3), keepdim=True) + 0.5
    clean = clean.clamp(0, 1)
    ball, stepper = LinfBall(0.1), MomentumSign(0.01)
    better = unseen(brightness, LIMIT)
    joint = Attack(ball, stepper, 60, rule=Dual(LIMIT), keep="best")(
        probe, clean, (cross_entropy, evasion(brightness)), better=better
    )

    def evaded(result):
        score = 100 * (result.images.mean((1, 2, 3)) - 0.5).abs()
        return (result.damage >= 1) & (score <= LIMIT)

    alone = Attack(ball, stepper, 60)(probe, clean)
    assert evaded(joint).sum() > evaded(alone).sum()
    assert evaded(joint).float().mean() > 0.6


def test_the_weight_of_a_dual_attack_rises_while_flagged_and_falls_while_not(probe, images):
    rule = Dual(limit=1.0, weight=2.0, up=1.5, down=0.5)

    class Point:
        values = (torch.zeros(2), -torch.tensor([3.0, 0.2]))

        @staticmethod
        def pull(total):
            return torch.zeros(2, 3, 8, 8)

    _, state = rule.direction(Point(), rule.init(2))
    assert state.tolist() == [3.0, 1.0]


def test_unseen_is_the_damage_where_nothing_is_flagged_and_below_zero_elsewhere(probe, images):
    kept = Attack(LinfBall(0.1), SignStep(0.02), 10, keep="best")(probe, images, better=unseen(brightness, LIMIT))
    score = 100 * (kept.images.mean((1, 2, 3)) - 0.5).abs()
    started = 100 * (images.mean((1, 2, 3)) - 0.5).abs()
    assert (started <= LIMIT).any()
    assert (score[started <= LIMIT] <= LIMIT).all()  # the clean image is better than anything flagged
    plain = Attack(LinfBall(0.1), SignStep(0.02), 10)(probe, images)
    assert (plain.images - images).abs().sum() > (kept.images - images).abs().sum()


def test_n_plus_one_is_a_margin_of_a_classifier_with_one_class_more(probe, images):
    with torch.no_grad():
        observation = probe(images)
        labels = observation.output.argmax(1)
        logits = observation.output - observation.output.amin(1, keepdim=True) + 1
        last = (brightness(observation) - LIMIT + 1) * logits.amax(1)
    seen = {}

    def kept(observation, context):
        value = n_plus_one(brightness, LIMIT)(observation, context)
        seen.setdefault("value", value.detach())
        return value

    Attack(LinfBall(0.1), SignStep(0.02), 1)(probe, images, kept)
    rows = torch.arange(len(images))
    own = logits[rows, labels]
    others = logits.clone()
    others[rows, labels] = -torch.inf
    torch.testing.assert_close(seen["value"], others.amax(1) - torch.maximum(own, last))


def test_averaged_is_the_mean_over_draws(probe, images):
    draws = iter(range(100))

    def random(observation, context):
        return cross_entropy(observation, context) * next(draws)

    seen = []

    def kept(observation, context):
        value = averaged(random, 4)(observation, context)
        seen.append((value.detach(), cross_entropy(observation, context).detach()))
        return value

    Attack(LinfBall(0.1), SignStep(0.02), 1)(probe, images, kept)
    torch.testing.assert_close(seen[0][0], 1.5 * seen[0][1])
