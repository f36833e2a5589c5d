"""foolbox's attacks give our images, to 1e-6 a pixel: it projects x - x0 and adds it again, which rounds.

foolbox 3.3.4 has neither Square nor SPSA; torchattacks has, and its answers are in `known_answers.safetensors`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlier.attacks.engine import Attack
from inlier.attacks.recipes import fgsm, ifgsm, mifgsm, pgd
from inlier.backbones.base import Backbone, Classification
from inlier.probe import Probe

foolbox = pytest.importorskip("foolbox")

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 3, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 10)
    )
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return Backbone(network, Classification([str(i) for i in range(10)]), mean=(0.5,) * 3, std=(0.25,) * 3).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Some pixels at 0 and at 1, so that clipping matters."""
    return (1.4 * torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) - 0.2).clamp(0, 1)


def theirs(attack: object, backbone: Backbone, images: Tensor, criterion: object, eps: float) -> Tensor:
    model = foolbox.PyTorchModel(backbone, bounds=(0, 1), device="cpu")
    return attack.run(model, images, criterion, epsilon=eps)  # type: ignore[attr-defined]


CASES = {
    "fgsm": (fgsm(0.02), foolbox.attacks.LinfFastGradientAttack(), 0.02),
    "ifgsm": (
        ifgsm(0.03, 0.008, 10),
        foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=0.008, steps=10, random_start=False),
        0.03,
    ),
    "pgd_linf": (
        replace(pgd(0.03, steps=12, start="clean"), keep="last"),
        foolbox.attacks.LinfProjectedGradientDescentAttack(rel_stepsize=0.25, steps=12, random_start=False),
        0.03,
    ),
    "pgd_l2": (
        replace(pgd(0.8, "l2", steps=12, start="clean"), keep="last"),
        foolbox.attacks.L2ProjectedGradientDescentAttack(rel_stepsize=2.5 / 12, steps=12, random_start=False),
        0.8,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_untargeted_images_are_foolboxs(name: str, backbone: Backbone, images: Tensor):
    ours, attack, eps = CASES[name]
    labels = backbone.predict(images)
    expected = theirs(attack, backbone, images, foolbox.criteria.Misclassification(labels), eps)
    result = ours(Probe(backbone), images)
    assert (result.images - images).abs().max() > 0.015
    torch.testing.assert_close(result.images, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["ifgsm", "pgd_linf", "pgd_l2"])
def test_the_targeted_images_are_foolboxs(name: str, backbone: Backbone, images: Tensor):
    ours, attack, eps = CASES[name]
    target = (backbone.predict(images) + 1) % 10
    expected = theirs(attack, backbone, images, foolbox.criteria.TargetedMisclassification(target), eps)
    result = ours(Probe(backbone), images, target=target)
    torch.testing.assert_close(result.images, expected, atol=TOLERANCE, rtol=0)


def test_foolboxs_momentum_accumulates_signs_where_the_paper_accumulates_unit_gradients(
    backbone: Backbone, images: Tensor
):
    eps, steps = 0.03, 6
    labels = backbone.predict(images)
    attack = foolbox.attacks.LinfMomentumIterativeFastGradientMethod(abs_stepsize=eps / steps, steps=steps)
    expected = theirs(attack, backbone, images, foolbox.criteria.Misclassification(labels), eps)

    def loop(normalise) -> Tensor:
        x, momentum = images, torch.zeros_like(images)
        for _ in range(steps):
            leaf = x.detach().requires_grad_()
            (g,) = torch.autograd.grad(F.cross_entropy(backbone(leaf), labels, reduction="sum"), leaf)
            momentum = momentum + normalise(g)
            x = (x + eps / steps * momentum.sign()).clamp(images - eps, images + eps).clamp(0, 1)
        return x

    torch.testing.assert_close(loop(torch.sign), expected, atol=TOLERANCE, rtol=0)
    ours = mifgsm(eps, steps)(Probe(backbone), images).images
    torch.testing.assert_close(loop(lambda g: g / g.abs().sum((1, 2, 3), keepdim=True)), ours, atol=TOLERANCE, rtol=0)
    assert ((ours - expected).abs() > 1e-3).float().mean() > 0.02


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_from_the_same_random_start_the_images_are_foolboxs(norm: str, backbone: Backbone, images: Tensor):
    eps, labels = {"linf": 0.03, "l2": 0.8}[norm], backbone.predict(images)
    ours = replace(pgd(eps, norm, steps=12, step_size=eps / 5), keep="last")  # type: ignore[arg-type]
    start = ours.constraint.draw(images, torch.Generator().manual_seed(7))
    peers = foolbox.attacks
    peer = {"linf": peers.LinfProjectedGradientDescentAttack, "l2": peers.L2ProjectedGradientDescentAttack}[norm]

    class FromThere(peer):  # type: ignore[misc, valid-type]
        def get_random_start(self, x0, epsilon):
            return type(x0)(start.clone())

    attack = FromThere(abs_stepsize=eps / 5, steps=12, random_start=True)
    expected = theirs(attack, backbone, images, foolbox.criteria.Misclassification(labels), eps)
    result = replace(ours, start="clean")(Probe(backbone), images, initial=start)
    torch.testing.assert_close(result.images, expected, atol=TOLERANCE, rtol=0)
    drawn = ours(Probe(backbone), images, seed=7)
    assert torch.equal(drawn.images, result.images)  # and that is the start which the seed draws


def test_each_random_start_is_worth_what_foolboxs_is(backbone: Backbone, images: Tensor):
    """Random numbers differ, so the losses reached are compared, on average over images and seeds."""
    labels = backbone.predict(images)
    attack: Attack = replace(pgd(0.03, steps=12), keep="last")
    ours = torch.stack([attack(Probe(backbone), images, seed=seed).trace[0, -1] for seed in range(4)])
    peer = foolbox.attacks.LinfProjectedGradientDescentAttack(rel_stepsize=0.25, steps=12, random_start=True)
    criterion = foolbox.criteria.Misclassification(labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reached = [theirs(peer, backbone, images, criterion, 0.03) for _ in range(4)]
    losses = torch.stack([F.cross_entropy(backbone(x), labels, reduction="none") for x in reached])
    torch.testing.assert_close(ours.mean(), losses.mean(), rtol=0.02, atol=0)
