"""Collisions: exact where algebra says that there are some, none where there are none, and for any reader."""

import pytest
import torch
from torch import nn

from inlier.anatomy import Anatomy
from inlier.attacks.collisions import collide, collision, mape, start_images
from inlier.attacks.objectives import fooled
from inlier.attacks.queries import spsa
from inlier.backbones.base import Backbone, Classification
from inlier.backbones.street import street_espnet
from inlier.detectors.daain import daain
from inlier.probe import Probe
from inlier.readers import FeatureMap
from inlier.taps import OUTPUT

NAMES = tuple("abcde")


def linear_encoder(size=5):
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, size, bias=False))
    network[1].weight.data = torch.randn(size, 108, generator=torch.Generator().manual_seed(0)) / 10
    return Backbone(network, Classification(NAMES[:size]))


def pictures(count, seed):
    return 0.2 + 0.6 * torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def encoder():
    backbone = linear_encoder()
    return Probe(backbone, [FeatureMap(OUTPUT, (5, 1, 1), "features")])


def features(probe, images):
    with torch.no_grad():
        return probe(images).readings["features"]


@pytest.mark.parametrize(("norm", "eps"), [("l2", 3.0), ("linf", 0.2)])
@pytest.mark.parametrize("optimiser", ["adamax", "pgd"])
def test_a_linear_encoder_is_met_up_to_its_null_space(encoder, norm, eps, optimiser):
    inside, outside = pictures(3, 1), pictures(3, 2)
    wanted = features(encoder, inside)
    attack = collide(eps, norm, 400, values=108, optimiser=optimiser)
    found = attack(encoder, outside, collision(encoder.readers["features"], wanted), seed=0)
    assert mape(features(encoder, found.images), wanted).max() < 2e-3
    # What is left of the difference lies in the null space of the encoder, which says nothing of it.
    weight = encoder.backbone.network[1].weight.detach()
    apart = (found.images - inside).flatten(1)
    assert (apart @ weight.T).norm(dim=1).max() < 1e-2 * apart.norm(dim=1).min()
    assert apart.norm(dim=1).min() > 1
    assert found.norms["L2" if norm == "l2" else "Linf"].max() <= eps + 1e-5


def test_behind_preprocessing_without_a_gradient_questions_find_what_gradients_cannot(encoder):
    def seen(images):  # what the encoder is shown: 16 levels
        return (images * 15).round() / 15

    inside, outside = pictures(1, 1), pictures(2, 2)
    wanted = features(encoder, inside)
    leaf = outside.clone().requires_grad_()
    encoder(seen(leaf)).readings["features"].sum().backward()
    assert not leaf.grad.any()
    far = mape(features(encoder, seen(outside)), wanted)
    found = spsa(
        lambda images: -mape(features(encoder, seen(images)), wanted), outside, 0.2, steps=60, samples=64, delta=0.05,
        size=0.02, win=-0.02,
    )  # fmt: skip
    near = mape(features(encoder, seen(found.images)), wanted)
    assert far.min() > 0.08
    assert near.max() <= 0.02
    torch.testing.assert_close(-found.values, near)
    assert (found.images - outside).abs().max() <= 0.2 + 1e-6


def test_one_step_along_the_pseudo_inverse_is_an_exact_collision(encoder):
    inside, outside = pictures(2, 1), pictures(2, 2)
    weight = encoder.backbone.network[1].weight.detach()
    change = (features(encoder, inside) - features(encoder, outside)) @ torch.linalg.pinv(weight).T
    met = outside + change.view_as(outside)
    assert mape(features(encoder, met), features(encoder, inside)).max() < 1e-5
    shortest = change.norm(dim=1)
    attack = collide(1.2 * shortest.max().item(), "l2", 600, values=108)
    found = attack(encoder, outside, collision(encoder.readers["features"], features(encoder, inside)), seed=1)
    assert mape(features(encoder, found.images), features(encoder, inside)).max() < 2e-3


def test_an_encoder_that_keeps_everything_is_met_by_the_image_alone():
    probe = Probe(Backbone(nn.Flatten(), Classification(tuple(map(str, range(108))))),
                  [FeatureMap(OUTPUT, (108, 1, 1), "features")])  # fmt: skip
    inside, outside = pictures(1, 1), pictures(1, 2)
    attack = collide(1.0, "l2", 200, values=108)
    found = attack(probe, outside, collision(probe.readers["features"], features(probe, inside)))
    left = (features(probe, found.images) - features(probe, inside)).norm()
    torch.testing.assert_close(left, (outside - inside).norm() - 1.0, rtol=6e-2, atol=0)


def test_one_image_may_be_met_by_all(encoder):
    wanted = features(encoder, pictures(1, 1))
    found = collide(3.0, "l2", 300, values=108)(encoder, pictures(3, 2), collision(encoder.readers["features"], wanted))
    assert mape(features(encoder, found.images), wanted).max() < 2e-3


def test_images_that_leave_take_their_own_features_with_them(encoder):
    inside, outside = pictures(4, 1), pictures(4, 2)
    wanted = features(encoder, inside)
    reader = encoder.readers["features"]
    attack = collide(3.0, "l2", 60, values=108)
    leaving = type(attack)(attack.constraint, attack.stepper, 60, start="random", keep="best", stop=fooled(1.0))
    seen = []

    def objective(observation, context):
        value = collision(reader, wanted)(observation, context)
        places = torch.arange(4) if context.places is None else context.places
        expected = -(observation.readings["features"] - wanted[places]).square().sum(1)
        seen.append(len(places))
        torch.testing.assert_close(value, expected)
        return value

    leaving(encoder, outside, objective)
    assert min(seen) < 4


def test_a_likelihood_collides_as_any_encoder_does():
    backbone = linear_encoder()
    anatomy = Anatomy.of(backbone, (6, 6), 3)
    anatomy.keys.seed = 0
    flow = daain(anatomy, distance=2, blocks=2, head="likelihood", taps="everywhere")
    probe = Probe(backbone, flow.requires)
    flow.fit(probe.read(pictures(60, 0)), seed=0)

    def likelihood(images):
        with torch.no_grad():
            return flow(probe(images))

    inside, outside = pictures(3, 1), start_images("checkerboard", 3, (6, 6))
    wanted, before = likelihood(inside), likelihood(outside)
    assert (before - wanted).min() > 20
    found = collide(4.0, "l2", 200, values=108)(probe, outside, collision(flow, wanted))
    assert (likelihood(found.images) - wanted).abs().max() < 0.2
    assert found.norms["L2"].max() <= 4.0 + 1e-5


def test_a_larger_ball_comes_nearer(encoder):
    inside, outside = pictures(3, 1), pictures(3, 2)
    wanted, reader = features(encoder, inside), encoder.readers["features"]
    far, near = (
        collide(eps, "l2", 300, values=108)(encoder, outside, collision(reader, wanted)).images for eps in (0.05, 0.3)
    )
    assert (mape(features(encoder, near), wanted) < mape(features(encoder, far), wanted)).all()


@pytest.mark.slow
def test_a_collision_of_all_that_a_key_reads_fools_whoever_holds_it():
    backbone = street_espnet()
    anatomy = Anatomy.of(backbone, (64, 96), 3)
    anatomy.keys.seed = 0
    reader = daain(anatomy, distance=32, blocks=1).requires[0]
    probe = Probe(backbone, [reader])
    inside, outside = pictures_of_size(1, (64, 96), 1), start_images("checkerboard", 1, (64, 96))
    with torch.no_grad():
        wanted, before = probe(inside).readings[reader.name], probe(outside).readings[reader.name]
    found = collide(30.0, "l2", 150, values=3 * 64 * 96)(probe, outside, collision(reader, wanted))
    with torch.no_grad():
        after = probe(found.images).readings[reader.name]
    assert mape(after, wanted) < 0.5 * mape(before, wanted)


def pictures_of_size(count, size, seed):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def test_mape_is_its_formula():
    read, wanted = torch.tensor([[1.0, -3.0, 2.0]]), torch.tensor([[2.0, -4.0, 0.0]])
    assert mape(read, wanted).item() == pytest.approx((1 + 1 + 2) / 3 / 4)


@pytest.mark.parametrize("kind", ["noise", "checkerboard", "spiral"])
def test_starts_are_images_and_repeat_themselves(kind):
    made = start_images(kind, 2, (48, 64))
    assert made.shape == (2, 3, 48, 64)
    assert made.min() >= 0
    assert made.max() <= 1
    assert made.std() > 0.2
    assert torch.equal(made, start_images(kind, 2, (48, 64)))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="spirals"):
        start_images("spirals", 1, (8, 8))
    with pytest.raises(ValueError, match="values="):
        collide(1.0)
    with pytest.raises(ValueError, match="l1"):
        collide(1.0, "l1", values=3)
