"""Surrogates of errors against their formulas, written out pixel by pixel, and what each of them is for."""

import inspect
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from inlier.attacks.objectives import Context, cross_entropy, share_changed
from inlier.attacks.recipes import RECIPES, dag_attack, pgd
from inlier.attacks.surrogates import (
    correct_cross_entropy,
    dag,
    hinge,
    houdini,
    jensen_shannon,
    margins,
    segpgd,
    smooth_count,
)
from inlier.attacks.targets import TargetKind, target_maps
from inlier.backbones.base import Backbone, Segmentation
from inlier.backbones.load import load_backbone
from inlier.datasets.load import open_images
from inlier.probe import Probe

TASK = Segmentation(("road", "tree", "sky", "void"))


class Seen:
    """An observation of which only the logits are asked."""

    def __init__(self, output):
        self.output = output


@pytest.fixture
def seen():
    return Seen(torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True))


def context(labels, target=None, step=3, steps=10, valid=None):
    clean = torch.zeros(len(labels), 3, *labels.shape[1:])
    every = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    return Context(step, steps, clean, labels, labels, target, every)


@pytest.fixture
def known():
    dice = torch.Generator().manual_seed(1)
    labels, target = (torch.randint(0, 3, (2, 3, 5), generator=dice) for _ in range(2))
    return context(labels, target, valid=torch.rand(2, 3, 5, generator=dice) < 0.8)


def pixel_by_pixel(seen, known, value):
    """The mean over valid pixels of value(logits, probabilities, label, target)."""
    output = seen.output.detach().double().numpy()
    means = []
    for i in range(len(output)):
        values = []
        for y, x in zip(*np.nonzero(known.valid[i].numpy()), strict=True):
            z = output[i, :, y, x]
            p = np.exp(z) / np.exp(z).sum()
            values.append(value(z, p, int(known.labels[i, y, x]), int(known.target[i, y, x])))
        means.append(np.mean(values))
    return torch.tensor(means)


def other(z, label):
    return max(v for k, v in enumerate(z) if k != label)


def untargeted_houdini(z, p, label, _):
    if z.argmax() != label:
        return 0.0
    second = max((k for k in range(4) if k != label), key=lambda k: z[k])
    return norm.cdf(z.max() - z[second]) * np.log(p[second])


def divergence(z, p, label, _):
    truth = np.eye(4)[label]
    middle = (p + truth) / 2
    return 0.5 * (p * np.log(p / middle)).sum() + 0.5 * np.log(1 / middle[label])


FORMULAS = {
    "masked": (correct_cross_entropy, lambda z, p, k, _: -np.log(p[k]) if z.argmax() == k else 0.0),
    "segpgd": (segpgd, lambda z, p, k, _: -np.log(p[k]) * (0.85 if z.argmax() == k else 0.15)),
    "jensen_shannon": (jensen_shannon, divergence),
    "hinge": (hinge(0.5), lambda z, p, k, _: min(other(z, k) - z[k], 0.5)),
    "count": (smooth_count(2.0), lambda z, p, k, _: 1 / (1 + np.exp(-(other(z, k) - z[k]) / 2))),
    "dag": (dag, lambda z, p, k, t: 0.0 if z.argmax() == t else z[t] - z.max()),
    "houdini": (houdini, lambda z, p, k, t: norm.cdf(z.max() - z[t]) * np.log(p[t])),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_surrogate_is_its_formula_and_has_a_gradient(name, seen, known):
    objective, formula = FORMULAS[name]
    value = objective(seen, known)
    torch.testing.assert_close(value.double(), pixel_by_pixel(seen, known, formula), rtol=1e-5, atol=1e-6)
    value.sum().backward()
    assert seen.output.grad.isfinite().all()
    assert seen.output.grad.abs().sum() > 0
    assert seen.output.grad.abs().sum(1)[~known.valid].sum() == 0


def test_without_a_target_houdini_wants_the_runner_up_of_what_is_right(seen, known):
    free = context(known.labels, valid=known.valid)
    expected = pixel_by_pixel(seen, known, untargeted_houdini)
    torch.testing.assert_close(houdini(seen, free).double(), expected, rtol=1e-5, atol=1e-6)


def test_on_its_own_prediction_houdini_has_a_gradient(seen):
    own = seen.output.detach().argmax(1)
    houdini(seen, context(own)).sum().backward()
    assert (seen.output.grad.abs().sum(1) > 0).all()


def test_dag_without_a_target_says_that_it_needs_one(seen, known):
    with pytest.raises(ValueError, match="target"):
        dag(seen, context(known.labels))


def test_jensen_shannon_is_bounded_and_cross_entropy_is_not():
    logits = torch.tensor([[-200.0, 200.0, 0, 0]])[..., None, None]
    value = jensen_shannon(Seen(logits), context(torch.zeros(1, 1, 1, dtype=torch.long)))
    assert value.item() == pytest.approx(math.log(2))


def test_segpgd_turns_from_right_pixels_to_all_of_them(seen, known):
    first, last = (segpgd(seen, context(known.labels, step=step, valid=known.valid)) for step in (0, 10))
    torch.testing.assert_close(first, correct_cross_entropy(seen, known))
    wrong_too = pixel_by_pixel(seen, known, lambda z, p, k, _: -np.log(p[k]) / 2)
    torch.testing.assert_close(last.double(), wrong_too, rtol=1e-5, atol=1e-6)


def test_margins_are_positive_where_the_prediction_is_wrong(seen, known):
    wrong = seen.output.argmax(1) != known.labels
    assert torch.equal(margins(seen.output, known.labels) > 0, wrong)


# --- targets ---------------------------------------------------------------------------------------------------------

KINDS = ["one_class", "stripes", "shape", "text", "other_scene", "remapped"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_is_a_map_of_classes_without_void_and_repeats_itself(kind):
    prediction = torch.randint(0, 3, (3, 40, 60), generator=torch.Generator().manual_seed(0))
    made = target_maps(kind, prediction, TASK, seed=4)
    assert made.shape == prediction.shape
    assert made.dtype == prediction.dtype
    assert set(made.unique().tolist()) <= {0, 1, 2}
    assert torch.equal(made, target_maps(kind, prediction, TASK, seed=4))
    assert ((made != prediction).float().mean((1, 2)) > 0.3).all()  # nothing that was there already
    sizes = {"one_class": 1, "stripes": 2, "shape": 2, "text": 2}
    if kind in sizes:
        assert [len(one.unique()) for one in made] == [sizes[kind]] * 3


def test_remapped_classes_are_all_others():
    prediction = torch.arange(3).repeat(5, 1)[None]
    made = target_maps("remapped", prediction, TASK)
    assert (made != prediction).all()
    assert len(made[0, 0].unique()) == 3


def test_targets_refuse_what_they_cannot_make():
    one = torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="two images"):
        target_maps("other_scene", one, TASK)
    with pytest.raises(ValueError, match="stripes"):
        target_maps("strips", one, TASK)
    with pytest.raises(ValueError, match="n, h, w"):
        target_maps("text", torch.zeros(3, dtype=torch.long), TASK)


# --- what they are for -----------------------------------------------------------------------------------------------


def segmenter():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 4, 3, padding=1))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.ndim > 1 else 0.1)
    return Backbone(network, TASK)


@pytest.fixture
def images():
    return torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(3))


def test_every_recipe_stays_in_its_ball_and_changes_more_than_noise(images):
    probe = Probe(segmenter())
    noise = images + 0.03 * (torch.randint(0, 2, images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    with torch.no_grad():
        before, after = probe.backbone.predict(images), probe.backbone.predict(noise.clamp(0, 1))
    by_noise = (before != after).float().mean().item()
    for name, row in RECIPES.items():
        target = 1 if row.needs_target else None
        radius = {} if "l2" in name else {"eps": 0.03}
        few = {"steps": 20} if "steps" in inspect.signature(row.factory).parameters else {}
        attack = row.factory(**radius, **few)
        result = attack(probe, images, row.objective, better=row.better, target=target)
        assert result.images.min() >= 0, name
        assert result.images.max() <= 1, name
        if radius:
            assert result.norms["Linf"].max() <= 0.03 + 1e-6, name
        assert result.damage.mean() > by_noise, name


def test_dag_reaches_a_structured_target_and_stops_there(images):
    probe = Probe(segmenter())
    with torch.no_grad():
        target = target_maps("other_scene", probe.backbone.predict(images), TASK)
    result = dag_attack(steps=2000)(probe, images, dag, target=target)
    reached = (result.after == target).float().mean((1, 2))
    assert (reached >= 0.99).all()
    assert (result.moves < 2000).all()
    assert len(set(result.moves.tolist())) > 1  # each leaves when it is done


@pytest.mark.slow
def test_on_camvid_plain_cross_entropy_is_weaker_than_what_leaves_wrong_pixels_alone(data):
    backbone = load_backbone(f"espnet:{data / 'weights' / 'espnet_decoder_camvid_p2_q8.safetensors'}")
    images = next(iter(open_images(f"camvid:{data / 'camvid' / 'test'}", labelled=False).batches(2))).images
    attack = pgd(eps=1 / 255, steps=8, step_size=0.25 / 255, start="clean")
    damage = {
        objective: attack(Probe(backbone), images, objective, better=share_changed).damage
        for objective in (cross_entropy, correct_cross_entropy, hinge())
    }
    plain, masked, margin = damage.values()
    assert (masked > plain).all()
    assert (margin > plain).all()


def test_the_kinds_that_are_listed_are_those_there_are():
    assert list(TargetKind.__args__) == KINDS
