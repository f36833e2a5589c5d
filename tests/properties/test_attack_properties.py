"""What holds of every attack: it stays where it may be, repeats itself by seed, and never ends worse than it began."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from inlier.attacks.constraints import Constraint, L2Ball, LinfBall, Unbounded
from inlier.attacks.engine import Attack, AttackResult
from inlier.attacks.objectives import Context, cross_entropy, evasion
from inlier.attacks.recipes import RECIPES
from inlier.attacks.steppers import L2Step, MomentumSign, SignStep, Where
from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.detectors.base import Detector
from inlier.observation import Observation
from inlier.probe import Probe

ROUNDING = 1e-6

seeds = st.integers(0, 2**31 - 1)
sizes = st.floats(1e-3, 1.0)
constraints = st.one_of(sizes.map(LinfBall), sizes.map(lambda eps: L2Ball(10 * eps)), st.just(Unbounded()))
steppers = st.one_of(sizes.map(SignStep), sizes.map(L2Step), sizes.map(MomentumSign))
few = settings(max_examples=30, deadline=None, derandomize=True)


def random(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def backbone(seed: int, dense: bool) -> Backbone:
    layers: list[nn.Module] = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1)]
    if not dense:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers)
    for i, parameter in enumerate(network.parameters()):
        parameter.data = random(seed + i, *parameter.shape) - 0.5
    names = ("a", "b", "c", "d")
    return Backbone(network, Segmentation(names) if dense else Classification(names))


def distance(constraint: Constraint, images: Tensor, clean: Tensor) -> Tensor:
    order = 2.0 if isinstance(constraint, L2Ball) else torch.inf
    return torch.linalg.vector_norm((images - clean).flatten(1), order, dim=1)


@few
@given(constraints, seeds, st.floats(0, 3))
def test_a_projection_is_in_ball_and_box_and_projecting_again_changes_nothing(constraint, seed, spread):
    clean = random(seed, 3, 2, 5, 4)
    point = clean + spread * (2 * random(seed + 1, 3, 2, 5, 4) - 1)
    projected = constraint.project(point, clean)
    assert ((projected >= 0) & (projected <= 1)).all()
    if not isinstance(constraint, Unbounded):
        assert (distance(constraint, projected, clean) <= constraint.eps + ROUNDING).all()
    torch.testing.assert_close(constraint.project(projected, clean), projected, atol=ROUNDING, rtol=0)
    torch.testing.assert_close(constraint.project(clean, clean), clean, atol=0, rtol=0)


@few
@given(constraints, seeds)
def test_a_random_start_is_in_ball_and_box_and_is_not_the_clean_image(constraint, seed):
    clean = random(seed, 3, 2, 5, 4)
    drawn = constraint.draw(clean, torch.Generator().manual_seed(seed + 1))
    assert ((drawn >= 0) & (drawn <= 1)).all()
    if not isinstance(constraint, Unbounded):
        assert (distance(constraint, drawn, clean) <= constraint.eps + ROUNDING).all()
    assert (drawn != clean).any()


@pytest.mark.parametrize("constraint", [LinfBall(0.1), L2Ball(0.1)])
def test_random_starts_fill_their_ball(constraint):
    clean = torch.full((400, 1, 2, 2), 0.5)
    radius = distance(constraint, constraint.draw(clean, torch.Generator().manual_seed(0)), clean) / 0.1
    # of a uniform point in d = 4 dimensions, in either norm: P(radius <= r) = r^4
    assert abs((radius <= 0.5**0.25).float().mean() - 0.5) < 0.08
    assert radius.max() > 0.99


@few
@given(
    constraints, steppers, st.sampled_from(["clean", "random"]), st.sampled_from(["last", "best"]), seeds, st.booleans()
)
def test_an_attack_stays_in_ball_and_box_and_repeats_itself(constraint, stepper, start, keep, seed, dense):
    probe, clean = Probe(backbone(seed, dense)), random(seed, 2, 3, 6, 5)
    attack = Attack(constraint, stepper, 4, start=start, keep=keep)
    result = attack(probe, clean, seed=seed)
    assert ((result.images >= 0) & (result.images <= 1)).all()
    if not isinstance(constraint, Unbounded):
        assert (distance(constraint, result.images, clean) <= constraint.eps + ROUNDING).all()
    again = attack(probe, clean, seed=seed)
    assert torch.equal(result.images, again.images)
    assert torch.equal(result.trace, again.trace)
    if start == "random":
        assert not torch.equal(attack(probe, clean, seed=seed + 1).trace, result.trace)


@few
@given(constraints, steppers, st.sampled_from(["clean", "random"]), st.integers(1, 2), seeds, st.booleans())
def test_the_best_is_no_worse_than_the_clean_image_and_any_iterate(constraint, stepper, start, restarts, seed, dense):
    probe, clean = Probe(backbone(seed, dense)), random(seed, 3, 3, 6, 5)
    attack = Attack(constraint, stepper, 4, start=start, keep="best", restarts=restarts if start == "random" else 1)
    result = attack(probe, clean, seed=seed)
    unmoved = replace(attack, start="clean", keep="last", restarts=1)(probe, clean).trace[0, 0]
    labels = result.labels

    def value(images: Tensor) -> Tensor:
        losses = nn.functional.cross_entropy(probe.backbone(images), labels, reduction="none")
        return losses.reshape(3, -1).mean(1)

    kept = value(result.images)
    assert (kept >= unmoved - ROUNDING).all()
    assert (kept >= result.trace[0].amax(0) - ROUNDING).all()


@pytest.mark.slow
@few
@given(seeds)
def test_without_a_bound_a_linear_classifier_errs(seed):
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    network[1].weight.data = random(seed, 3, 48) - 0.5
    network[1].bias.data.zero_()
    probe = Probe(Backbone(network, Classification(("a", "b", "c"))))
    attack = Attack(Unbounded(), SignStep(0.1), 20, keep="best")
    images = random(seed + 1, 4, 3, 4, 4)
    for target in range(3):
        result = attack(probe, images, target=target)
        reachable = _largest_margin(network[1].weight.data, target) > 0
        assert (result.after == target).all() or not reachable
    assert attack(probe, images).success().all()


def _largest_margin(weight: Tensor, target: int) -> float:
    """A lower bound of how far some image in [0, 1] puts the target before each other class."""
    others = [i for i in range(len(weight)) if i != target]
    image = (weight[target] > weight[others].amax(0)).float()
    return float((weight @ image)[target] - (weight @ image)[others].amax())


class Distance(Detector):
    """The distance of the mean logits from the origin."""

    name = "distance"

    def forward(self, observation: Observation) -> Tensor:
        return observation.output.flatten(2).mean(2).square().sum(1)

    def unfitted(self) -> Distance:
        return Distance()


@few
@given(st.sampled_from(sorted(set(RECIPES) - {"fgsm_targeted", "ifgsm_targeted"})), seeds)
def test_evasion_lowers_the_score_by_every_recipe(name, seed):
    probe, clean, detector = Probe(backbone(seed, dense=True)), random(seed, 2, 3, 6, 5), Distance()
    few = {"steps": 8} if "steps" in inspect.signature(RECIPES[name].factory).parameters else {}
    attack = replace(RECIPES[name].factory(**few), keep="best")
    result = attack(probe, clean, evasion(detector), seed=seed)
    before, after = detector(probe(clean)), detector(probe(result.images))
    assert (after <= before).all()
    assert (after < before).any()


def shorter(name: str, **given: float) -> Attack:
    """A recipe of six steps, with those of other settings that it has."""
    factory = RECIPES[name].factory
    return factory(
        **{key: value for key, value in {"steps": 6, **given}.items() if key in inspect.signature(factory).parameters}
    )


def heights(probe: Probe, images: Tensor, name: str, result: AttackResult, target: int | None) -> Tensor:
    """What the recipe raises, at images that nothing moves."""
    still = Attack(Unbounded(), SignStep(0.0), 1)
    given = {"labels": result.labels} if target is None else {"target": target}
    return still(probe, images, RECIPES[name].objective, **given).trace[0, 0]


tasks = pytest.mark.parametrize("dense", [False, True], ids=["classes", "maps"])


@tasks
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_stays_in_ball_and_box_and_repeats_itself(name, dense):
    recipe, attack, seed = RECIPES[name], shorter(name), 7
    probe, clean = Probe(backbone(seed, dense)), (1.4 * random(seed, 3, 3, 6, 5) - 0.2).clamp(0, 1)
    target = 1 if recipe.needs_target else None
    more = {"better": recipe.better if attack.keep == "best" else None, "target": target}
    result = attack(probe, clean, recipe.objective, seed=seed, **more)
    assert ((result.images >= 0) & (result.images <= 1)).all()
    if not isinstance(attack.constraint, Unbounded):
        assert (distance(attack.constraint, result.images, clean) <= attack.constraint.eps + ROUNDING).all()
    again = attack(probe, clean, recipe.objective, seed=seed, **more)
    assert torch.equal(result.images, again.images)
    assert torch.equal(result.trace, again.trace)
    if attack.start == "random" and attack.stop is None:
        other = attack(probe, clean, recipe.objective, seed=seed + 1, **more)
        assert not torch.equal(other.trace, result.trace)


BEST = sorted(name for name in RECIPES if shorter(name).keep == "best")


@tasks
@pytest.mark.parametrize("name", BEST)
def test_of_every_recipe_that_keeps_the_best_it_is_no_worse_than_clean_image_and_start(name, dense):
    recipe, attack, seed = RECIPES[name], shorter(name), 7
    probe, clean = Probe(backbone(seed, dense)), random(seed, 3, 3, 6, 5)
    target = 1 if recipe.needs_target else None
    result = attack(probe, clean, recipe.objective, seed=seed, target=target)
    kept = heights(probe, result.images, name, result, target)
    assert (kept >= heights(probe, clean, name, result, target) - ROUNDING).all()
    own_ball = [step for step in range(attack.steps + 1) if attack.constraint_at(step)[1]]
    assert (kept >= result.trace[0, own_ball].amax(0) - ROUNDING).all()


@pytest.mark.parametrize("name", RECIPES)
def test_without_a_bound_every_recipe_makes_a_linear_classifier_err(name):
    recipe, seed = RECIPES[name], 7
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    network[1].weight.data = random(seed, 2, 48) - 0.5
    network[1].bias.data.zero_()
    probe, images = Probe(Backbone(network, Classification(("a", "b")))), random(seed + 1, 4, 3, 4, 4)
    far = {"eps": 10.0 if name.endswith("l2") else 1.0, "step_size": 0.25, "size": 0.1, "steps": 20}
    attack = shorter(name, **far)
    own = probe.backbone.predict(images)
    target = 1 - own if recipe.needs_target else None
    result = attack(
        probe, images, recipe.objective, better=recipe.better if attack.keep == "best" else None, target=target
    )
    assert (result.after != own).all()


def test_a_gradient_is_that_of_finite_differences():
    net = backbone(3, dense=True)
    net.network[1] = nn.Softplus()  # smooth, so that differences are meaningful
    probe, clean = Probe(net.double()), random(4, 8, 3, 6, 5).double()
    seen: list[Tensor] = []

    class Listening(SignStep):
        def update(self, gradient: Tensor, state: None, where: Where | None = None) -> tuple[Tensor, None]:
            seen.append(gradient)
            return super().update(gradient, state, where)

    Attack(LinfBall(0.1), Listening(0.01), 1)(probe, clean)
    direction = random(5, *clean.shape).double() - 0.5
    context = Context(0, 1, clean, *[net.predict(clean)] * 2, None, torch.ones(8, 6, 5, dtype=torch.bool))
    ahead, behind = (cross_entropy(probe(clean + sign * 1e-5 * direction), context) for sign in (1, -1))
    expected = (seen[0] * direction).flatten(1).sum(1)
    torch.testing.assert_close((ahead - behind) / 2e-5, expected, rtol=1e-5, atol=1e-9)
