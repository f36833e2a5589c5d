"""Hardening: what is trained and what is not, that it goes on to the bit, and that an attacker has less of it."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from toy_segmentation import scenes, segmenter

from inlier.attacks.hardening import (
    FineTune,
    Hardening,
    Pool,
    apart,
    blended,
    fine_tuned,
    harden,
    weights_of,
)
from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.errors import Mismatch
from inlier.evaluation.hardening import changed, cost, quality
from inlier.evaluation.metrics import ConfusionMatrix
from inlier.images import TensorImages

NAMES = ("road", "tree", "sky", "void")
SMALL = Hardening(eps=0.05, steps=6, batch_size=4, lr=1e-2)


def normed():
    """A segmentation network with batch normalisation."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(6, 4, 1)
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return Backbone(network, Segmentation(NAMES))


def in_8_bit(images):
    return (images * 255).round() / 255


def labelled(count=12):
    """Images whose pixels are of the class that their brightest channel says; some are void."""
    images = in_8_bit(scenes(count, 1))
    labels = images.argmax(1)
    labels[:, 0] = 3
    return TensorImages(images, labels=labels, classes=NAMES)


def states(backbone):
    return {name: tensor.clone() for name, tensor in backbone.network.state_dict().items()}


@pytest.fixture(scope="module")
def backbone():
    return normed()


@pytest.fixture(scope="module")
def pool(backbone):
    return Pool.of(backbone, labelled())


def test_running_statistics_stay_and_everything_else_is_trained(backbone, pool):
    before = states(backbone)
    made, losses = fine_tuned(backbone, pool, SMALL)
    assert all(torch.equal(tensor, before[name]) for name, tensor in states(backbone).items())  # the user's own
    after = states(made)
    frozen = {name for name in before if torch.equal(before[name], after[name])}
    assert frozen == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert not made.network.training
    assert not any(parameter.requires_grad for parameter in made.network.parameters())
    assert losses.shape == (6,)
    assert losses.isfinite().all()


def test_the_chosen_layers_alone_change(backbone, pool):
    made, _ = fine_tuned(backbone, pool, replace(SMALL, layers=("4.*",)))
    before, after = states(backbone), states(made)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"4.weight", "4.bias"}
    with pytest.raises(ValueError, match=r"No parameter's name matches 'level\*'; names are such as 0.weight"):
        fine_tuned(backbone, pool, replace(SMALL, layers=("level*",)))


@pytest.mark.parametrize("settings", [SMALL, replace(SMALL, consistency="kl", recipe="pgd_linf", attack_steps=2)])
def test_killed_and_gone_on_with_it_ends_with_the_same_weights(settings, backbone, pool, tmp_path):
    whole, losses = fine_tuned(backbone, pool, settings)
    file = tmp_path / "work.safetensors"

    def kill(name, done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tuned(backbone, pool, settings, work=file, save_every=2, progress=kill)
    begun = FineTune(backbone, pool, settings)
    begun.resume(file)
    assert begun.step == 4
    resumed, again = fine_tuned(backbone, pool, settings, work=file, save_every=2)
    assert torch.equal(losses, again)
    assert all(torch.equal(tensor, states(whole)[name]) for name, tensor in states(resumed).items())


def test_other_settings_images_or_networks_are_refused(backbone, pool, tmp_path):
    file = tmp_path / "work.safetensors"
    fine_tuned(backbone, pool, SMALL, work=file)
    with pytest.raises(Mismatch, match=r"lr = 0.01, and this one has 0.02. Give this one another folder"):
        fine_tuned(backbone, pool, replace(SMALL, lr=0.02), work=file)
    with pytest.raises(Mismatch, match="pixels"):
        fine_tuned(backbone, replace(pool, digest="another"), SMALL, work=file)
    other = copy.deepcopy(backbone)
    other.network[4].bias.data += 1
    with pytest.raises(Mismatch, match="network"):
        fine_tuned(other, pool, SMALL, work=file)


def test_the_control_sees_the_same_images_and_no_attacker(backbone, pool):
    settings = replace(SMALL, eps=0.5, recipe="pgd_linf", consistency="kl", consistency_weight=3.0)
    for step in range(4):
        mine, theirs = (pool.batch(how, step) for how in (settings, settings.control))
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])
    assert settings.control == replace(SMALL, eps=0.1).control
    run = FineTune(backbone, pool, settings.control)
    run.attacked = None  # would be called if anything were attacked
    run.advance()
    assert run.losses[0].isfinite()


def test_every_image_is_drawn_once_an_epoch_and_labels_are_mirrored_with_it(backbone, pool):
    assert sorted(pool.order(0, 3)) == list(range(len(pool)))
    assert pool.order(0, 3) != pool.order(0, 4)
    images, labels = pool.batch(replace(SMALL, batch_size=12, crop=(5, 7)), 0)
    assert images.shape == (12, 3, 5, 7)
    known = labels != 3
    assert torch.equal(images.argmax(1)[known], labels[known])


def test_every_group_is_drawn_as_often_where_that_is_wanted(backbone):
    groups = ("few",) * 2 + ("some",) * 3 + ("many",) * 7
    images = labelled()
    pool = Pool.of(backbone, TensorImages(images.images, labels=images.labels, classes=NAMES, groups=groups))
    assert pool.digest != Pool.of(backbone, images).digest
    for epoch in range(3):
        drawn = pool.order(0, epoch, even_groups=True)
        assert len(drawn) == len(pool)
        for group in set(groups):
            places = [place for place in drawn if groups[place] == group]
            assert len(places) == 4
            assert len(set(places)) == min(4, groups.count(group))
    assert pool.order(0, 0, even_groups=True) != pool.order(0, 1, even_groups=True)
    even = replace(SMALL, batch_size=12, even_groups=True)
    assert even.control.even_groups
    drawn = pool.order(SMALL.seed, 0, even_groups=True)
    shown, _ = pool.batch(replace(even, flip=False), 0)
    assert torch.equal(shown, torch.stack([pool.images[place] for place in drawn]).float() / 255)
    with pytest.raises(ValueError, match=r"all these images are of one; leave out even_groups, or say which group"):
        fine_tuned(backbone, Pool.of(backbone, images), even)


def test_void_pixels_and_only_these_do_not_count(backbone, pool):
    run = FineTune(backbone, pool, SMALL)
    images, labels = pool.batch(SMALL, 0)
    logits = run.seen(images)
    other = logits.detach().clone()
    other[:, :, 0] += 5 * torch.randn(other[:, :, 0].shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(run.error(logits, labels), run.error(other, labels))
    other[:, :, 1] += 5 * torch.randn(other[:, :, 1].shape, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(run.error(logits, labels), run.error(other, labels))
    plain = nn.functional.cross_entropy(logits, labels, ignore_index=3)
    assert torch.allclose(run.error(logits, labels), plain)


def test_attacked_images_stay_in_the_ball_and_raise_the_loss(backbone, pool):
    settings = replace(SMALL, recipe="pgd_linf", attack_steps=5)
    run = FineTune(backbone, pool, settings)
    images, labels = pool.batch(settings, 0)
    attacked = run.attacked(images, labels)
    assert (attacked - images).abs().max() <= 0.05 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    with torch.no_grad():
        assert run.error(run.backbone(attacked), labels) > run.error(run.backbone(images), labels)


def test_divergences_are_those_of_their_definitions():
    clean, other = (torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    p, q = clean.softmax(1), other.softmax(1)
    kl = (p * (p / q).log()).sum(1)
    middle = (p + q) / 2
    jensen = ((p * (p / middle).log()).sum(1) + (q * (q / middle).log()).sum(1)) / 2
    assert torch.allclose(apart("kl", clean, other), kl, atol=1e-6)
    assert torch.allclose(apart("jensen_shannon", clean, other), jensen, atol=1e-6)


def test_an_attacker_changes_less_of_the_hardened_network_than_of_the_control():
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    for parameter in network.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    backbone = Backbone(network, Classification(("dark", "bright")), mean=(0.5,) * 3, std=(0.25,) * 3)
    sides = torch.arange(64) % 2
    # One channel withstands the attacker, two tell as much to a network that nobody attacks, and are turned around.
    signal = torch.tensor([0.25, 0.04, 0.04]).view(1, 3, 1, 1) * (2 * sides - 1).view(-1, 1, 1, 1)
    images = (0.5 + signal + 0.05 * torch.randn(64, 3, 4, 4, generator=generator)).clamp(0, 1)
    source = TensorImages(images, labels=sides, classes=("dark", "bright"))
    made = harden(backbone, source, Hardening(eps=0.15, clean_share=0.3, steps=40, batch_size=16, lr=5e-2))
    control, hardened = (
        changed(each, images, [0.15], steps=3, batch_size=64)[0] for each in (made.control, made.hardened)
    )
    assert hardened["damage"] < 0.8 * control["damage"]
    found = quality({"original": backbone, "hardened": made.hardened}, source)
    assert found.measure == "accuracy"
    assert found.values["hardened"] > 0.95


def test_without_labels_the_networks_own_predictions_are_kept(backbone):
    images = in_8_bit(scenes(6, 3))
    own = Pool.of(backbone, images)
    assert own.made
    assert torch.equal(torch.stack(own.labels).long(), backbone.predict(images))
    found = quality({"original": backbone, "same": backbone}, TensorImages(images))
    assert (found.measure, found.images, found.values) == ("agreement", 6, {"original": 1.0, "same": 1.0})


def test_the_quality_is_the_mean_iou_of_the_confusion_matrix(backbone):
    source = labelled(5)
    tables = {"original": (backbone, ConfusionMatrix(4, 3)), "other": (segmenter(), ConfusionMatrix(4, 3))}
    for network, table in tables.values():
        table.update(network.predict(source.images), source.labels)
    found = quality({name: network for name, (network, _) in tables.items()}, source, batch_size=2)
    assert (found.measure, found.images) == ("miou", 5)
    assert found.values == pytest.approx({name: table.mean_iou() for name, (_, table) in tables.items()})
    assert len(set(found.values.values())) == 2


def test_a_cost_is_against_the_better_and_its_interval_draws_neighbours_together():
    drift = torch.linspace(0.5, 0.7, 40)
    shares = {"original": torch.full((40,), 0.7), "control": torch.full((40,), 0.8), "slow": drift,
              "fast": drift[torch.arange(40) % 2 * 39]}  # fmt: skip
    groups = ["a"] * 40
    slow, fast = cost(shares, "control", "slow", groups), cost(shares, "control", "fast", groups)
    assert (slow.value, fast.value) == (pytest.approx(0.2), pytest.approx(0.2))
    assert slow.low < slow.value < slow.high
    assert fast.high - fast.low < slow.high - slow.low
    assert cost(shares, "original", "slow", groups).value == pytest.approx(0.1)


def test_weights_on_the_way_lie_between(backbone, pool):
    made, _ = fine_tuned(backbone, pool, SMALL)
    half, start, end = (states(each) for each in (blended(backbone, made, 0.5), backbone, made))
    for name in ("0.weight", "1.bias", "4.weight"):
        assert torch.allclose(half[name], (start[name] + end[name]) / 2)
    assert all(torch.equal(tensor, start[name]) for name, tensor in states(blended(backbone, made, 0.0)).items())
    with pytest.raises(ValueError, match=r"from 0 \(the original\) to 1"):
        blended(backbone, made, 1.5)


def test_a_tensor_with_two_names_is_written_once():
    layer = nn.Conv2d(3, 4, 1)
    tied = Backbone(nn.ModuleDict({"a": layer, "b": layer}), Segmentation(NAMES))
    assert sorted(weights_of(tied)) == ["a.bias", "a.weight"]


def test_the_learning_rate_rises_and_falls():
    settings = Hardening(steps=100, lr=1.0)
    rates = [settings.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[4] == rates[5] == 1.0
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.001
    assert Hardening(schedule="constant", lr=0.1).rate(77) == 0.1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"recipe": "pdg"}, "No recipe named 'pdg'. Did you mean 'pgd'"),
        ({"recipe": "dag"}, "aims at a target"),
        ({"recipe": "fgsm", "attack_steps": 3}, "takes no number of steps"),
        ({"consistency": "l2"}, "consistency is None or one of kl, jensen_shannon"),
        ({"schedule": "step"}, "schedule one of cosine, constant"),
        ({"eps": 0.0}, "eps=0.0"),
        ({"clean_share": 1.2}, "clean_share=1.2"),
        ({"steps": 0, "lr": -1.0}, "steps=0, lr=-1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, said):
    with pytest.raises((ValueError, LookupError), match=said):
        Hardening(**wrong)


def test_settings_by_an_alias_are_those_of_its_recipe():
    assert Hardening(recipe="pgd") == Hardening(recipe="pgd_linf")


def test_images_that_do_not_suit_the_network_are_refused(backbone, pool, unchecked_shapes):
    classifier = Backbone(nn.Sequential(nn.Flatten(), nn.Linear(432, 2)), Classification(("a", "b")))
    own = Pool.of(classifier, scenes(4, 0))
    with pytest.raises(ValueError, match="A crop is for segmentation"):
        fine_tuned(classifier, own, replace(SMALL, crop=(4, 4)))
    with pytest.raises(ValueError, match="does not fit into '"):
        fine_tuned(backbone, pool, replace(SMALL, crop=(40, 4)))
    with pytest.raises(ValueError, match="resizes images"):
        fine_tuned(backbone.adapted(size=(6, 6)), pool, replace(SMALL, crop=(4, 4)))
    images, labels = (pool.images[0][:, :6], *pool.images[1:]), (pool.labels[0][:6], *pool.labels[1:])
    small = replace(pool, images=images, labels=labels)
    with pytest.raises(ValueError, match="of several sizes"):
        fine_tuned(backbone, small, replace(SMALL, batch_size=12))
    with pytest.raises(ValueError, match="needs labels"):
        Pool.of(backbone, TensorImages(scenes(4, 0), labels=torch.zeros(4).long(), classes=NAMES))
