"""Gradient alignment: its cosine by hand on a linear network, its passes, and the gradient through the gradient."""

import pytest
import torch
from torch import nn

from inlier.attacks.recipes import fgsm
from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.detectors.gradient_alignment import GradientAlignment, rooted, signs
from inlier.errors import Mismatch
from inlier.looks import Blur
from inlier.observation import Recorded
from inlier.probe import Probe
from inlier.testing.specimens import scenes, tiny_backbone


def linear(seed=0):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 8
    return Backbone(network, Classification("abc"))


def dense(seed=0):
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.Softplus(), nn.Conv2d(6, 3, 3, padding=1)]
    network = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 3
    return Backbone(network, Segmentation("abc"))


def images(n, size=8, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def score(backbone, shown, sigma=1.0):
    with torch.no_grad():
        return GradientAlignment(sigma)(Probe(backbone)(shown))


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_on_a_linear_network_it_is_the_cosine_written_out(sigma):
    backbone, shown = linear(), images(4)
    weight = backbone.network[1].weight
    blurred = Blur(sigma).images(shown)
    classes = backbone(blurred).argmax(1)
    error = backbone(shown).softmax(1) - nn.functional.one_hot(classes, 3)
    slope = (error @ weight).view_as(shown)  # of the cross-entropy, W' (p - y)
    a, b = (shown - blurred).sign().flatten(1), (slope.sign() * slope.abs().sqrt()).flatten(1)
    expected = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    torch.testing.assert_close(score(backbone, shown, sigma), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [linear, dense])
def test_score_of_a_batch_is_the_scores_one_by_one(make):
    backbone, shown = make(), images(5)
    alone = torch.cat([score(backbone, one[None]) for one in shown])
    torch.testing.assert_close(score(backbone, shown), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [linear, dense])
def test_an_attack_that_follows_the_gradient_is_seen(make):
    backbone = make()
    shown = torch.nn.functional.avg_pool2d(images(12, 24), 9, stride=1, padding=0)[..., :8, :8]  # hardly any pattern
    probe = Probe(backbone)
    attacked = fgsm(eps=0.01)(probe, shown).images
    assert (score(backbone, attacked) > score(backbone, shown) + 0.2).all()


@pytest.mark.parametrize("make", [linear, dense])
def test_it_costs_two_passes_of_which_one_is_the_predictions(make):
    observation = Probe(make())(images(2))
    GradientAlignment()(observation)
    assert observation.passes == 2
    _ = observation.output  # was seen while the gradient was taken
    assert observation.passes == 2


def test_a_prediction_that_was_made_without_gradients_is_made_again():
    observation = Probe(dense())(images(2))
    with torch.no_grad():
        _ = observation.output
        GradientAlignment()(observation)
    assert observation.passes == 3


def test_what_was_seen_on_the_way_to_a_gradient_is_what_a_pass_would_show():
    backbone, shown = dense(), images(2)
    observation = Probe(backbone)(shown)
    observation.gradient(lambda seen: seen.output.square().mean((1, 2, 3)))
    assert observation.passes == 1
    torch.testing.assert_close(observation.output, backbone(shown))
    assert not observation.output.requires_grad


def test_scores_are_between_minus_one_and_one_and_finite_for_an_image_without_pattern():
    backbone = dense()
    assert score(backbone, images(20)).abs().max() <= 1
    even = score(backbone, torch.full((1, 3, 8, 8), 0.4))
    assert even.tolist() == [0]


def test_a_prediction_without_any_doubt_has_a_score_of_zero():
    backbone = linear()
    for parameter in backbone.network.parameters():
        parameter.data *= 1e4
    assert score(backbone, images(3)).isfinite().all()


def test_the_root_keeps_signs_and_does_not_see_the_scale():
    slope = torch.tensor([4.0, -1, 0, 9, -16]).view(1, 1, 1, 5)
    expected = torch.tensor([0.5, -0.25, 0, 0.75, -1])
    for scale in (1.0, 1e-20, 1e20):
        torch.testing.assert_close(rooted(slope * scale).flatten(), expected)


def test_rounding_has_no_sign():
    assert signs(torch.tensor([2e-7, -2e-7, 1e-3, -1e-3, 0]).view(1, 1, 1, 5)).flatten().tolist() == [0, 0, 1, -1, 0]


def test_the_gradient_through_the_gradient_is_that_of_finite_differences():
    # The image is far from its blurred one everywhere, so that no sign changes; what stands in for it is left out.
    backbone = dense().double()
    board = torch.arange(8).view(-1, 1).add(torch.arange(8)).remainder(2).double() * 0.6 + 0.2
    shown = board.expand(1, 3, 8, 8) + 0.05 * images(1).double()
    sign = (shown - Blur().images(shown)).sign().flatten(1)
    classes = backbone(Blur().images(shown)).argmax(1)

    def loss(seen):
        return nn.functional.cross_entropy(seen.output, classes, reduction="none").mean((1, 2))

    def cosine(at, **settings):
        slope = Probe(backbone)(at).gradient(loss, **settings)
        return nn.functional.cosine_similarity(sign, rooted(slope).flatten(1)).sum()

    assert cosine(shown).item() == pytest.approx(score(backbone, shown).item())
    leaf = shown.clone().requires_grad_()
    cosine(leaf, create_graph=True).backward()
    direction = torch.randn(shown.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-7
    slope = (cosine(shown + step * direction) - cosine(shown - step * direction)) / (2 * step)
    torch.testing.assert_close((leaf.grad * direction).sum(), slope, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["classifier", "segmentation"])
def test_its_gradient_is_finite_and_lowers_it(kind):
    backbone, shown = tiny_backbone(kind), scenes(4)
    leaf = shown.clone().requires_grad_()
    before = GradientAlignment()(Probe(backbone)(leaf))
    (slope,) = torch.autograd.grad(before.sum(), leaf)
    assert slope.isfinite().all()
    assert (slope != 0).flatten(1).any(1).all()
    after = score(backbone, (shown - 2 / 255 * slope.sign()).clamp(0, 1))
    assert (after < before.detach()).all()


def test_sigma_must_be_a_standard_deviation_and_readings_are_no_images():
    with pytest.raises(ValueError, match="more than 0, not 0"):
        GradientAlignment(0)
    with pytest.raises(Mismatch, match="recorded without their images"):
        GradientAlignment()(Recorded({"logits": torch.rand(1, 3)}))
