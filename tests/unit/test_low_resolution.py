"""A smaller image is attacked and the network sees it up-sampled: each claim against a formula written out here."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inlier.attacks.constraints import L2Ball, LinfBall, LowResolution, Unbounded
from inlier.attacks.engine import Attack
from inlier.attacks.objectives import cross_entropy
from inlier.attacks.recipes import RECIPES, fgsm, pgd
from inlier.attacks.steppers import L2Step
from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.probe import Probe

SMALL, LARGE = (4, 5), (12, 18)
UP = {
    "bilinear": lambda small: F.interpolate(small, LARGE, mode="bilinear", align_corners=False),
    "nearest": lambda small: F.interpolate(small, LARGE, mode="nearest"),
}

both = pytest.mark.parametrize("mode", UP)


def random(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def linear(seed=0):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * LARGE[0] * LARGE[1], 2))
    network[1].weight.data = random(seed, *network[1].weight.shape) - 0.5
    network[1].bias.data.zero_()
    return Backbone(network, Classification(("cat", "dog")))


def dense():
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 3, padding=1))
    for i, parameter in enumerate(network.parameters()):
        parameter.data = random(i, *parameter.shape) - 0.5
    return Backbone(network, Segmentation(("a", "b", "c", "d")))


def classifier():
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4))
    for i, parameter in enumerate(network.parameters()):
        parameter.data = 2 * random(i, *parameter.shape) - 1
    return Backbone(network, Classification(("a", "b", "c", "d")))


@both
def test_of_an_up_sampled_image_the_native_one_is_attacked(mode):
    native = random(0, 3, 3, *SMALL)
    ways, seen = LowResolution(SMALL, mode), UP[mode](native)
    torch.testing.assert_close(ways.start(seen), native, atol=1e-5, rtol=0)
    other = random(1, 3, 3, *SMALL)
    torch.testing.assert_close(ways.images(other, seen), UP[mode](other), atol=1e-5, rtol=0)


@both
def test_any_other_image_keeps_its_detail_and_a_change_of_nothing_is_none(mode):
    clean, ways = random(0, 2, 3, *LARGE), LowResolution(SMALL, mode)
    small = ways.start(clean)
    assert torch.equal(ways.images(small, clean), clean)
    change = 0.1 * (random(1, *small.shape) - 0.5)
    inside = clean * 0.5 + 0.25  # so that nothing is cut off
    moved = ways.images(ways.start(inside) + change, inside)
    torch.testing.assert_close(moved - inside, UP[mode](change), atol=1e-5, rtol=0)
    # the nearest small image: no other one comes nearer once it is up-sampled, and the rest is across all of them
    rest = inside - UP[mode](ways.start(inside))
    across = torch.einsum("nchw,nchw->n", rest, UP[mode](change))
    torch.testing.assert_close(across, torch.zeros(2), atol=1e-4, rtol=0)


@both
@pytest.mark.parametrize("ball", [LinfBall(0.07), L2Ball(0.3)], ids=["linf", "l2"])
@pytest.mark.parametrize("start", ["clean", "random"])
def test_the_ball_is_on_the_small_image_and_the_box_on_both(mode, ball, start):
    ways, clean = LowResolution(SMALL, mode), (1.4 * random(2, 4, 3, *LARGE) - 0.2).clamp(0, 1)
    size = 0.02 if isinstance(ball, LinfBall) else 0.1
    attack = Attack(ball, L2Step(10 * size), 6, ways, start=start, keep="best")
    result = attack(Probe(dense()), clean)
    change = (result.parameters - ways.start(clean)).flatten(1)
    order = torch.inf if isinstance(ball, LinfBall) else 2.0
    length = torch.linalg.vector_norm(change, order, dim=1)
    assert (length <= ball.eps + 1e-6).all()
    assert (length > 0.9 * ball.eps).all()
    assert result.parameters.min() >= 0
    assert result.parameters.max() <= 1
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert result.images.shape == clean.shape
    if isinstance(ball, LinfBall):  # an up-sampled value is a mean of small ones
        assert (result.norms["Linf"] <= ball.eps + 1e-6).all()
    else:
        assert (result.norms["L2"] > ball.eps).all()


@both
def test_the_gradient_is_that_of_the_small_image(mode):
    clean, backbone = 0.5 * random(3, 3, 3, *LARGE) + 0.25, dense()
    labels = backbone.predict(clean)
    seen = []

    class Listening(L2Step):
        def update(self, gradient, state, where=None):
            seen.append(gradient)
            return super().update(gradient, state, where)

    attack = Attack(Unbounded(), Listening(0.1), 2, LowResolution(SMALL, mode))
    result = attack(Probe(backbone), clean)
    small = LowResolution(SMALL, mode).start(clean)
    for gradient in seen:
        leaf = small.clone().requires_grad_()
        image = clean + UP[mode](leaf - LowResolution(SMALL, mode).start(clean))
        F.cross_entropy(backbone(image), labels, reduction="none").mean((1, 2)).sum().backward()
        torch.testing.assert_close(gradient, leaf.grad, rtol=1e-4, atol=1e-7)
        small = small + 0.1 * leaf.grad / leaf.grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(result.parameters, small, rtol=0, atol=1e-5)


@both
def test_on_a_linear_network_it_reaches_the_best_there_is(mode):
    backbone, clean = linear(), 0.4 + 0.2 * random(4, 5, 3, *LARGE)
    labels = backbone.predict(clean)
    weight = backbone.network[1].weight.data.view(2, 3, *LARGE)
    across = torch.where(labels == 0, 1.0, -1.0).view(-1, 1, 1, 1) * (weight[1] - weight[0])  # what raises the error

    def margin(images):
        return (images * across).sum((1, 2, 3))

    leaf = torch.zeros(5, 3, *SMALL, requires_grad=True)
    (pull,) = torch.autograd.grad((UP[mode](leaf) * across).sum(), leaf)  # the transpose of up-sampling, applied
    ways, probe = LowResolution(SMALL, mode), Probe(backbone)

    found = replace(fgsm(0.05), parametrisation=ways)(probe, clean)
    torch.testing.assert_close(margin(found.images - clean), 0.05 * pull.abs().sum((1, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.parameters, ways.start(clean) + 0.05 * pull.sign())

    found = Attack(L2Ball(0.3), L2Step(0.3), 1, ways)(probe, clean)
    length = pull.flatten(1).norm(dim=1)
    torch.testing.assert_close(margin(found.images - clean), 0.3 * length, rtol=1e-4, atol=1e-4)

    pixels = fgsm(0.05)(probe, clean)  # whoever may change each pixel can do more
    assert (margin(pixels.images) > margin(found.images)).all()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_attacks_a_low_resolution(name):
    recipe, clean = RECIPES[name], random(5, 3, 3, *LARGE)
    attack = recipe.factory() if name.startswith("fgsm") else recipe.factory(steps=6)
    attack = replace(attack, parametrisation=LowResolution(SMALL))
    target = 1 if recipe.needs_target else None
    result = attack(Probe(dense()), clean, recipe.objective, better=recipe.better, target=target)
    assert result.parameters.shape == (3, 3, *SMALL)
    assert ((result.images >= 0) & (result.images <= 1)).all()
    assert (result.images != clean).any()
    assert result.config["surface"]["optimised"] == [3, *SMALL]
    assert result.config["surface"]["images"] == [3, *LARGE]
    named = {"name": "LowResolution", "size": [*SMALL], "mode": "bilinear"}
    assert result.config["attack"]["parametrisation"] == named
    again = attack(Probe(dense()), clean, recipe.objective, better=recipe.better, target=target)
    assert torch.equal(result.images, again.images)


def test_the_small_image_gains_less_than_the_tensor_it_becomes():
    native = random(6, 8, 3, *SMALL)
    probe, seen = Probe(classifier()), UP["bilinear"](native)
    attack = pgd(0.02, steps=20, start="clean")
    tensor = attack(probe, seen)
    small = replace(attack, parametrisation=LowResolution(SMALL))(probe, seen)
    assert (small.trace[0].amax(0) > small.trace[0, 0]).all()
    assert (tensor.trace[0].amax(0) >= small.trace[0].amax(0)).all()


def test_a_low_resolution_goes_on_from_where_it_ended_and_leaves_images_that_are_done():
    probe, clean = Probe(classifier()), random(7, 6, 3, *LARGE)
    ways = LowResolution(SMALL)
    first = Attack(LinfBall(0.1), L2Step(0.1), 3, ways)(probe, clean)
    more = Attack(LinfBall(0.1), L2Step(0.1), 2, ways)(probe, clean, cross_entropy, initial=first.parameters)
    once = Attack(LinfBall(0.1), L2Step(0.1), 5, ways)(probe, clean)
    torch.testing.assert_close(more.images, once.images)
    stopping = replace(RECIPES["apgd_linf"].factory(eps=0.5, steps=20), parametrisation=ways)(probe, clean)
    assert stopping.success(1.0).any()
    assert (stopping.moves[stopping.success(1.0)] < 20).any()


def test_a_low_resolution_that_cannot_be_is_refused():
    for settings in ({"size": (0, 4)}, {"size": (4, 4), "mode": "cubic"}):
        with pytest.raises(ValueError, match="at least 1 pixel"):
            LowResolution(**settings)
    with pytest.raises(ValueError, match="at most that of the images, 12 x 18"):
        replace(fgsm(), parametrisation=LowResolution((13, 4)))(Probe(classifier()), random(8, 1, 3, *LARGE))
