"""Claims about the attack engine, each against a formula written out here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from inlier.anatomy import Anatomy
from inlier.attacks.constraints import L2Ball, LinfBall, MaskedPatch, SharedDelta, Unbounded
from inlier.attacks.engine import Attack
from inlier.attacks.objectives import (
    Context,
    Dual,
    Orthogonal,
    Selective,
    Sum,
    alarm,
    cross_entropy,
    damage,
    evasion,
    fooled,
    most_likely,
    targeted,
)
from inlier.attacks.recipes import RECIPES, fgsm, ifgsm, mifgsm, pgd
from inlier.attacks.steppers import L2Step, MomentumSign, SignStep
from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.backbones.espnet import espnet
from inlier.detectors.base import Detector
from inlier.detectors.mahalanobis import mahalanobis
from inlier.observation import Look, Observation, Readings
from inlier.probe import Probe
from inlier.readers import ChannelStatistics
from inlier.taps import Tap

NAMES = ("road", "tree", "sky", "void")


def seeded(network: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.ndim > 1 else 0.1)
    return network


def classifier() -> Backbone:
    network = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(54, 4))
    return Backbone(seeded(network), Classification(NAMES), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def segmenter() -> Backbone:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 4, 3, padding=1))
    return Backbone(seeded(network), Segmentation(NAMES), bgr=True)


def pictures(n: int = 3, seed: int = 1) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def frames(n: int, seed: int) -> Tensor:
    """Images of one scene: alike, as those of a fixed camera are."""
    return (0.8 * pictures(1) + 0.2 * pictures(n, seed)).clamp(0, 1)


def gradient(backbone: Backbone, images: Tensor, labels: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    losses = F.cross_entropy(backbone(leaf), labels, reduction="none")
    losses.reshape(len(images), -1).mean(1).sum().backward()
    return leaf.grad


both = pytest.mark.parametrize("make", [classifier, segmenter])


@both
def test_fgsm_equals_its_formula(make):
    backbone, x = make(), pictures()
    labels = backbone.predict(x)
    expected = (x + 0.02 * gradient(backbone, x, labels).sign()).clamp(0, 1)
    assert torch.equal(fgsm(0.02)(Probe(backbone), x).images, expected)


@both
def test_targeted_fgsm_descends_to_the_target(make):
    backbone, x = make(), pictures()
    target = torch.full_like(backbone.predict(x), 2)
    expected = (x - 0.02 * gradient(backbone, x, target).sign()).clamp(0, 1)
    assert torch.equal(fgsm(0.02)(Probe(backbone), x, target=2).images, expected)
    assert torch.equal(fgsm(0.02)(Probe(backbone), x, targeted, target=target).images, expected)


@both
def test_iterated_fgsm_equals_its_loop(make):
    backbone, clean = make(), pictures()
    labels, x = backbone.predict(clean), clean
    for _ in range(5):
        x = (x + 0.005 * gradient(backbone, x, labels).sign()).clamp(clean - 0.01, clean + 0.01).clamp(0, 1)
    assert torch.equal(ifgsm()(Probe(backbone), clean).images, x)


def test_momentum_is_accumulated_from_unit_l1_gradients():
    backbone, clean = segmenter(), pictures()
    labels, x, momentum = backbone.predict(clean), clean, torch.zeros_like(clean)
    for _ in range(4):
        g = gradient(backbone, x, labels)
        momentum = 0.9 * momentum + g / g.abs().sum((1, 2, 3), keepdim=True)
        x = (x + 0.005 * momentum.sign()).clamp(clean - 0.02, clean + 0.02).clamp(0, 1)
    torch.testing.assert_close(mifgsm(0.02, 4, 0.9)(Probe(backbone), clean).images, x, atol=1e-7, rtol=0)


def test_steps_have_their_length_whatever_the_gradients_scale():
    g = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for scale in (1e-30, 1.0, 1e30):
        move, _ = L2Step(0.7).update(scale * g, None)
        torch.testing.assert_close(move.flatten(1).norm(dim=1), torch.full((2,), 0.7))
        _, momentum = MomentumSign(0.1).update(scale * g, torch.zeros_like(g))
        torch.testing.assert_close(momentum.flatten(1).abs().sum(1), torch.ones(2))
    assert L2Step(0.7).update(0 * g, None)[0].count_nonzero() == 0


def test_a_step_costs_one_forward_and_one_backward_pass():
    backbone, calls = classifier(), []
    handle = backbone.register_forward_hook(lambda *call: calls.append(call[2].requires_grad))
    clean = ifgsm(steps=7)(Probe(backbone), pictures())
    assert calls == [True] * 7 + [False]  # the last point is evaluated too, without a graph
    assert (clean.forwards, clean.backwards) == (8, 7)
    random = pgd(steps=7, restarts=2)(Probe(backbone), pictures())
    assert (random.forwards, random.backwards) == (1 + 2 * 8, 14)  # the clean images' own prediction, once
    orthogonal = Attack(LinfBall(0.1), SignStep(0.01), 7, rule=Orthogonal())
    result = orthogonal(Probe(backbone), pictures(), [cross_entropy, brightness])
    assert (result.forwards, result.backwards) == (8, 14)
    handle.remove()


def test_further_looks_are_counted():
    def twice(observation: Observation, context: Context) -> Tensor:
        return cross_entropy(observation.look(Look()), context)

    assert ifgsm(steps=3)(Probe(segmenter()), pictures(), twice).forwards == 4 + 2  # and the predictions at both ends
    assert ifgsm(steps=3)(Probe(segmenter()), pictures(), [cross_entropy, twice]).forwards == 8


def test_an_attack_leaves_images_network_and_random_state_as_they_were():
    backbone, x = segmenter(), pictures()
    before, weights, state = x.clone(), backbone.fingerprint(), torch.get_rng_state()
    result = pgd(0.1, steps=3)(Probe(backbone), x)
    result.images.zero_()
    result.clean.zero_()
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert backbone.fingerprint() == weights
    assert all(p.grad is None for p in backbone.network.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_an_attack_works_where_gradients_are_switched_off():
    with torch.no_grad():
        result = fgsm()(Probe(segmenter()), pictures())
    assert torch.equal(result.images, fgsm()(Probe(segmenter()), pictures()).images)
    assert not result.images.requires_grad


@both
def test_a_batch_is_attacked_as_its_images_one_by_one(make):
    probe, x = Probe(make()), pictures(4)
    together = ifgsm(0.05, 0.02, 4)(probe, x)
    alone = [ifgsm(0.05, 0.02, 4)(probe, x[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together.images, torch.cat([r.images for r in alone]))
    torch.testing.assert_close(together.damage, torch.cat([r.damage for r in alone]))


def test_void_pixels_count_nowhere():
    probe, x = Probe(segmenter()), pictures()
    labels = probe.backbone.predict(x) % 3
    labels[:, 2:6] = 3
    result = fgsm(0.02)(probe, x, labels=labels)
    leaf = x.clone().requires_grad_()
    F.cross_entropy(probe.backbone(leaf), labels, ignore_index=3).backward()
    assert torch.equal(result.images, (x + 0.02 * leaf.grad.sign()).clamp(0, 1))
    counted = labels != 3
    changed = (probe.backbone.predict(result.images) != probe.backbone.predict(x)) & counted
    torch.testing.assert_close(result.damage, changed.flatten(1).sum(1) / counted.flatten(1).sum(1))


def test_damage_of_a_classifier_is_against_the_label_and_of_a_map_against_its_own_prediction():
    for backbone in (classifier(), segmenter()):
        x = pictures()
        own = backbone.predict(x)
        truth = (own + 1) % 3
        tiny = fgsm(1e-6)(Probe(backbone), x, labels=truth)
        assert torch.equal(tiny.before, own)
        assert torch.equal(tiny.after, own)
        assert tiny.damage.tolist() == ([1.0] * 3 if own.ndim == 1 else [0.0] * 3)
        assert torch.equal(tiny.success(), tiny.damage >= 0.5)


def test_an_all_void_label_map_is_a_dead_gradient_and_no_damage():
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    labels[0] = 3
    result = ifgsm(steps=4)(Probe(segmenter()), pictures(2), labels=labels)
    assert result.dead_gradients == 0.5
    assert torch.equal(result.images[0], result.clean[0])
    assert result.damage[0] == 0


def test_non_finite_gradients_are_counted_and_move_nothing():
    def cliff(observation: Observation, context: Context) -> Tensor:
        pixels = observation.images[:, 0, 0, 0]
        return observation.images[:, 1].sum((1, 2)) + (pixels - pixels.detach()).sqrt()  # infinite slope

    result = fgsm(0.1)(Probe(classifier()), pictures(), cliff)
    assert result.dead_gradients == 1
    assert torch.equal(result.images[:, 0], result.clean[:, 0])
    assert torch.equal(result.images[:, 1], (result.clean[:, 1] + 0.1).clamp(0, 1))


def brightness(observation: Observation, context: Context) -> Tensor:
    return observation.images.mean((1, 2, 3))


def redness(observation: Observation, context: Context) -> Tensor:
    return observation.images[:, 0].mean((1, 2)) - observation.images[:, 2].mean((1, 2))


def test_a_sum_weighs_its_objectives():
    def weighed(observation: Observation, context: Context) -> Tensor:
        return 0.25 * brightness(observation, context) - 2.0 * redness(observation, context)

    attack = Attack(L2Ball(0.5), L2Step(0.2), 3)
    one = attack(Probe(classifier()), pictures(), weighed)
    two = replace(attack, rule=Sum((0.25, -2.0)))(Probe(classifier()), pictures(), [brightness, redness])
    torch.testing.assert_close(one.images, two.images)
    assert two.trace.shape == (2, 4, 3)


def test_objectives_may_differ_in_precision():
    def precisely(observation: Observation, context: Context) -> Tensor:
        return redness(observation, context).double()

    attacks = [Attack(LinfBall(0.1), SignStep(0.1), 1, rule=rule) for rule in (Sum(), Selective(), Orthogonal())]
    for attack in attacks:
        once = attack(Probe(classifier()), pictures(), [brightness, redness])
        assert torch.equal(attack(Probe(classifier()), pictures(), [brightness, precisely]).images, once.images)


def test_selective_follows_the_second_objective_once_the_first_has_succeeded():
    def second_image_is_wrong(observation: Observation, context: Context) -> Tensor:
        return torch.tensor([False, True])

    attack = Attack(LinfBall(0.1), SignStep(0.1), 1, rule=Selective(second_image_is_wrong))
    result = attack(Probe(classifier()), pictures(2), [brightness, redness])
    assert torch.equal(result.images[0], (result.clean[0] + 0.1).clamp(0, 1))
    shift = torch.tensor([0.1, 0.0, -0.1]).view(3, 1, 1)
    assert torch.equal(result.images[1], (result.clean[1] + shift).clamp(0, 1))


def test_orthogonal_moves_one_objective_and_not_the_other():
    def tilted(observation: Observation, context: Context) -> Tensor:
        return brightness(observation, context) + redness(observation, context)

    start = torch.full((2, 3, 8, 8), 0.5)
    for wrong, still in ((False, 1), (True, 0)):
        rule = Orthogonal(lambda o, c, wrong=wrong: torch.tensor([wrong, wrong]))
        attack = Attack(L2Ball(0.5), L2Step(0.1), 3, rule=rule)
        trace = attack(Probe(classifier()), start, [brightness, tilted]).trace
        torch.testing.assert_close(trace[still, -1], trace[still, 0])
        assert (trace[1 - still, -1] > trace[1 - still, 0] + 1e-3).all()
        shared = replace(attack, parametrisation=SharedDelta())(Probe(classifier()), start, [brightness, tilted])
        torch.testing.assert_close(shared.trace, trace)


def test_selective_and_orthogonal_need_two_objectives():
    for rule in (Selective(), Orthogonal()):
        with pytest.raises(ValueError, match="needs two objectives"):
            Attack(LinfBall(0.1), SignStep(0.1), 1, rule=rule)(Probe(classifier()), pictures())


class Bands(Detector):
    """Mahalanobis distance of band means, as the default monitor has it."""

    name = "bands"

    def __init__(self, reader: ChannelStatistics) -> None:
        super().__init__()
        self.requires = (reader,)
        self.register_buffer("mean", torch.zeros(reader.size))
        self.register_buffer("precision", torch.eye(reader.size))

    def fit(self, readings: Readings, **_: object) -> Bands:
        values = readings.values["statistics"]
        self.mean = values.mean(0)
        self.precision = torch.linalg.inv(values.T.cov() + 1e-6 * torch.eye(values.shape[1]))
        return self

    def forward(self, observation: Observation) -> Tensor:
        delta = observation.readings["statistics"] - self.mean
        return ((delta @ self.precision) * delta).mean(1)

    def unfitted(self) -> Bands:
        return Bands(*self.requires)


def bands(backbone: Backbone, train: Tensor) -> tuple[Probe, Bands, float]:
    reader = ChannelStatistics({Tap("0"): (8, 8, 8), Tap("1"): (8, 8, 8)}, grid=(2, 1))
    probe = Probe(backbone, [reader])
    detector = Bands(reader).fit(probe.read(train))
    return probe, detector, float(detector(probe(frames(400, 7))).quantile(0.95))


def test_one_evasion_lowers_the_score_and_one_alarm_raises_it():
    probe, detector, _ = bands(segmenter(), frames(400, 5))
    x = frames(4, 6)
    before = detector(probe(x))
    assert (detector(probe(ifgsm()(probe, x, evasion(detector)).images)) < before).all()
    assert (detector(probe(ifgsm()(probe, x, alarm(detector)).images)) > before).all()


def test_the_monitors_detector_is_evaded_while_the_prediction_is_wrong():
    probe, detector, threshold = bands(segmenter(), frames(400, 5))
    x = frames(8, 6)
    x = x[detector(probe(x)) <= threshold]

    def silent_damage(observation: Observation, context: Context) -> Tensor:
        return damage(most_likely(observation.output), context) - (detector(observation) > threshold).float()

    oblivious = pgd(0.15, steps=30, step_size=0.02)(probe, x)
    flagged = detector(probe(oblivious.images)) > threshold
    assert (oblivious.success(0.3) & flagged).all()
    for rule in (Dual(threshold), Selective(fooled(0.3)), Orthogonal(fooled(0.3))):
        attack = replace(pgd(0.15, steps=150, step_size=0.004), rule=rule)
        result = attack(probe, x, [cross_entropy, evasion(detector)], better=silent_damage)
        silent = detector(probe(result.images)) <= threshold
        assert (result.success(0.3) & silent).all(), rule


@pytest.mark.slow
def test_on_street_images_pgd_is_seen_by_the_default_detector_and_a_joint_attack_is_not(data: Path):
    """CamVid at half size, eps 2/255: the attacker who knows the detector wins on every image."""
    backbone = espnet(data / "weights" / "espnet_decoder_camvid_p2_q8.safetensors")
    detector = mahalanobis(Anatomy.of(backbone, (180, 240)))
    probe = Probe(backbone, detector.requires)
    files = sorted((data / "camvid" / "train").glob("*.webp"))
    detector.fit(probe.read(street(files[0::3])))
    with torch.no_grad():
        threshold = float(detector(probe(street(files[1::3]))).quantile(0.95))
    x = street(files[2::45])
    silent_before = detector(probe(x)) <= threshold
    assert silent_before.all()

    def silent_damage(observation: Observation, context: Context) -> Tensor:
        return damage(most_likely(observation.output), context) - (detector(observation) > threshold).float()

    eps = 2 / 255
    oblivious = pgd(eps, steps=20)(probe, x)
    assert (oblivious.success(0.3) & (detector(probe(oblivious.images)) > threshold)).all()
    joint = replace(pgd(eps, steps=40, step_size=eps / 8), rule=Dual(0.9 * threshold, down=0.7))
    evading = joint(probe, x, [cross_entropy, evasion(detector)], better=silent_damage)
    assert (evading.success(0.3) & (detector(probe(evading.images)) <= threshold)).all()


def street(files: list[Path]) -> Tensor:
    pictures = [
        np.array(Image.open(file).convert("RGB").resize((240, 180), Image.Resampling.BILINEAR)) for file in files
    ]
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 255


def test_one_delta_is_shared_by_all_images():
    attack = Attack(L2Ball(0.6), L2Step(0.2), 5, SharedDelta(), start="random", keep="best", restarts=2)
    result = attack(Probe(segmenter()), pictures())
    assert result.parameters.shape == (1, 3, 8, 8)
    assert result.parameters.norm() <= 0.6 + 1e-6
    assert torch.equal(result.images, (result.clean + result.parameters).clamp(0, 1))
    assert result.trace[0].mean(1)[-1] > result.trace[0].mean(1)[0]


def test_a_patch_changes_nothing_around_it():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:5, 3:7] = True
    patch = Attack(Unbounded(), SignStep(0.1), 10, MaskedPatch(mask), start="random")
    result = patch(Probe(segmenter()), pictures())
    assert torch.equal(result.images[..., ~mask], result.clean[..., ~mask])
    assert (result.images != result.clean)[..., mask].float().mean() > 0.9
    assert (result.trace[0, -1] > result.trace[0, 0]).all()
    with pytest.raises(ValueError, match="mask must be bool"):
        replace(patch, parametrisation=MaskedPatch(mask[:3]))(Probe(segmenter()), pictures())


def test_an_attack_goes_on_from_where_another_ended():
    probe, x = Probe(classifier()), pictures()
    first = ifgsm(0.05, 0.01, 2)(probe, x)
    gone_on = ifgsm(0.05, 0.01, 3)(probe, x, initial=first.parameters)
    assert torch.equal(gone_on.images, ifgsm(0.05, 0.01, 5)(probe, x).images)


def test_without_a_bound_an_attack_may_start_at_another_image():
    probe, detector, _ = bands(segmenter(), frames(400, 5))
    other, x = frames(2, 9), torch.zeros(2, 3, 8, 8)
    attack = Attack(Unbounded(), SignStep(0.001), 2, keep="best")
    result = attack(probe, x, evasion(detector), initial=other)
    assert (result.trace[0, 0] == -detector(probe(other))).all()
    assert (detector(probe(result.images)) <= detector(probe(other))).all()


def test_restarts_keep_the_best_of_each_image_and_its_trace():
    probe, x = Probe(classifier()), pictures(6)
    attack = Attack(LinfBall(0.1), SignStep(0.05), 2, start="random", restarts=4)
    result = attack(probe, x)
    labels = probe.backbone.predict(x)
    torch.testing.assert_close(
        F.cross_entropy(probe.backbone(result.images), labels, reduction="none"), result.trace[0, -1]
    )
    one = replace(attack, restarts=1)(probe, x)  # the same first start
    assert (result.trace[0, -1] >= one.trace[0, -1]).all()
    assert (result.trace[0, -1] > one.trace[0, -1]).any()


def test_better_chooses_the_iterate_that_is_kept():
    def early(observation: Observation, context: Context) -> Tensor:
        return torch.full((3,), -abs(context.step - 2.0))

    attack = Attack(LinfBall(0.1), SignStep(0.01), 6, keep="best")
    result = attack(Probe(classifier()), pictures(), better=early)
    assert torch.equal(result.images, ifgsm(0.1, 0.01, 2)(Probe(classifier()), pictures()).images)


def test_a_result_says_what_was_run():
    mask = torch.ones(8, 8, dtype=torch.bool)
    attack = replace(pgd(0.1, "l2", steps=3), rule=Selective(), parametrisation=MaskedPatch(mask))
    _, detector, _ = bands(segmenter(), frames(400, 5))
    probe = Probe(segmenter(), detector.requires)
    config = attack(probe, pictures(), [cross_entropy, evasion(detector)], seed=4).config
    assert json.loads(json.dumps(config)) == config
    assert config["attack"]["constraint"] == {"name": "L2Ball", "eps": 0.1}
    assert config["attack"]["rule"] == {"name": "Selective", "wrong": "fooled(0.5)"}
    assert config["objectives"] == ["cross_entropy", "evasion(bands)"]
    assert config["seed"] == 4
    surface = {"images": [3, 8, 8], "optimised": [3, 8, 8], "before": "resizing and normalisation"}
    assert config["surface"] == surface


def test_norms_and_8_bit_images():
    result = fgsm(0.1)(Probe(classifier()), pictures().clamp(0.2, 0.8))
    delta = (result.images - result.clean).flatten(1)
    assert result.norms["L0"].tolist() == [7 * 7 * 3] * 3  # the network does not see the last row and column
    torch.testing.assert_close(result.norms["L1"], delta.abs().sum(1))
    torch.testing.assert_close(result.norms["L2"], delta.square().sum(1).sqrt())
    torch.testing.assert_close(result.norms["Linf"], torch.full((3,), 0.1))
    levels = result.to_8_bit() * 255
    torch.testing.assert_close(levels, levels.round())
    assert (result.to_8_bit() - result.images).abs().max() <= 0.5 / 255 + 1e-7


@pytest.mark.parametrize("name", RECIPES)
@both
def test_every_recipe_raises_its_objective(name, make):
    recipe = RECIPES[name]
    target = 1 if recipe.needs_target else None
    result = recipe.factory()(Probe(make()), pictures(), recipe.objective, better=recipe.better, target=target)
    moved = result.moves > 0  # an image that is its target from the start leaves at once
    assert moved.any()
    if name == "segpgd":  # weighs pixels anew at every step, so that its heights cannot be compared
        assert (result.damage > 0).any()
    else:
        assert (result.trace[0].amax(0) > result.trace[0, 0])[moved].all()
    assert result.steps == recipe.factory().steps


def test_progress_ends_at_all_steps():
    told = []
    pgd(steps=3, restarts=2)(Probe(classifier()), pictures(), progress=lambda *said: told.append(said))
    assert told == [("attack", i, 6) for i in range(1, 7)]


def test_the_most_likely_class_is_that_of_argmax_also_among_equals():
    logits = torch.randint(0, 3, (4, 5, 9, 11), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(most_likely(logits), logits.argmax(1))
    assert torch.equal(most_likely(logits[..., 0, 0]), logits[..., 0, 0].argmax(1))


def test_what_cannot_be_run_is_refused_with_a_reason():
    probe, x = Probe(segmenter()), pictures()
    maps = torch.zeros(3, 8, 8, dtype=torch.long)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        fgsm()(probe, x * 255)
    with pytest.raises(ValueError, match="eps must be positive"):
        LinfBall(0.0)
    with pytest.raises(ValueError, match="restarts from the clean images"):
        Attack(LinfBall(0.1), SignStep(0.1), 1, restarts=2)
    with pytest.raises(ValueError, match="at least 1 step"):
        Attack(LinfBall(0.1), SignStep(0.1), 0)
    with pytest.raises(ValueError, match="start is 'clean' or 'random'"):
        Attack(LinfBall(0.1), SignStep(0.1), 1, start="noise")
    with pytest.raises(ValueError, match="norm is 'linf' or 'l2'"):
        pgd(norm="l1")
    with pytest.raises(ValueError, match="labels must be of shape"):
        fgsm()(probe, x, labels=maps[0])
    with pytest.raises(ValueError, match="labels must be integers from 0 to 3"):
        fgsm()(probe, x, labels=maps + 255)
    with pytest.raises(ValueError, match="target must be integers"):
        fgsm()(probe, x, target=-1)
    with pytest.raises(ValueError, match="needs a target"):
        fgsm()(probe, x, targeted)
    with pytest.raises(ValueError, match="one value an image"):
        fgsm()(probe, x, lambda observation, context: observation.output.sum())
    with pytest.raises(ValueError, match="No gradient leads"):
        fgsm()(probe, x, lambda observation, context: observation.output.detach().sum((1, 2, 3)))
    with pytest.raises(ValueError, match="2 weights"):
        Attack(LinfBall(0.1), SignStep(0.1), 1, rule=Sum((1.0, 2.0)))(probe, x)
    with pytest.raises(ValueError, match="at least one objective"):
        fgsm()(probe, x, [])
    with pytest.raises(ValueError, match="not both"):
        pgd()(probe, x, initial=x)
    with pytest.raises(ValueError, match="keeps the last of one"):
        fgsm()(probe, x, better=cross_entropy)
