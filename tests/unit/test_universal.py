"""Claims about GD-UAP: its steps against plain PyTorch, its halving and validating against their rules, its files."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlier.anatomy import Anatomy
from inlier.attacks import universal
from inlier.attacks.constraints import LinfBall, SharedDelta
from inlier.attacks.engine import Attack
from inlier.attacks.objectives import Orthogonal, cross_entropy, log_norms
from inlier.attacks.steppers import Adam, MomentumSign, SignStep
from inlier.attacks.universal import UniversalDelta, gd_uap
from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.backbones.espnet import espnet
from inlier.datasets.folder import ImageFolder
from inlier.errors import Mismatch
from inlier.files import write_tensors
from inlier.images import TensorImages
from inlier.probe import Probe
from inlier.readers import ActivationNorms
from inlier.taps import Tap

SIZE = (8, 10)
EPS = 10 / 255
STEP = 0.1 / 255


def seeded(network: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.ndim > 1 else 0.1)
    return network


def segmenter(seed: int = 0, **settings: object) -> Backbone:
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 5, 3, padding=1), nn.Tanh(),
        nn.Conv2d(5, 4, 1),
    )  # fmt: skip
    settings = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), **settings}
    return Backbone(seeded(network, seed), Segmentation(("road", "tree", "sky", "void")), **settings)


def classifier() -> Backbone:
    network = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(72, 4))
    return Backbone(seeded(network), Classification(("a", "b", "c", "d")), mean=(0.5,) * 3, std=(0.25,) * 3)


def pictures(n: int = 3, seed: int = 1) -> Tensor:
    return torch.rand(n, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def quick(backbone: Backbone, **settings: object) -> UniversalDelta:
    settings = {"prior": "none", "iterations": 6, "validate_every": 3, **settings}
    return gd_uap(backbone, SIZE, **settings)


# --- the parts --------------------------------------------------------------------------------------------------------


def test_adam_climbs_as_that_of_pytorch():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1, 3, 4, 5, generator=generator)
    theirs = nn.Parameter(start.clone())
    optimiser = torch.optim.Adam([theirs], lr=0.03, betas=(0.8, 0.99), eps=1e-6, maximize=True)
    ours, stepper = start, Adam(0.03, (0.8, 0.99), 1e-6)
    state = stepper.init(ours)
    for scale in (1.0, 1e-3, 0.0, 10.0, 1.0):
        gradient = scale * torch.randn(start.shape, generator=generator)
        theirs.grad = gradient.clone()
        optimiser.step()
        move, state = stepper.update(gradient, state)
        ours = ours + move
        torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-6)


def test_norms_are_those_of_what_plain_hooks_see():
    backbone, seen = segmenter(), []
    taps = [Tap("0"), Tap("1"), Tap("2"), Tap("4", "input")]
    for name in ("0", "1", "2"):
        backbone.network.get_submodule(name).register_forward_hook(lambda _, __, out: seen.append(out.clone()))
    backbone.network[4].register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    reader = ActivationNorms(taps)
    norms = Probe(backbone, [reader])(pictures()).readings["activation_norms"]
    expected = torch.stack([activation.square().sum((1, 2, 3)).sqrt() for activation in seen], dim=1)
    torch.testing.assert_close(norms, expected)
    assert (reader.size, reader.origins().tolist()) == (4, [0, 1, 2, 3])


def test_norms_of_a_batch_are_those_one_by_one_and_vectors_have_them_too():
    backbone = classifier()
    probe = Probe(backbone, [ActivationNorms([Tap("0"), Tap("3")])])
    together = probe(pictures(4)).readings["activation_norms"]
    alone = [probe(image).readings["activation_norms"] for image in pictures(4).split(1)]
    torch.testing.assert_close(together, torch.cat(alone))
    torch.testing.assert_close(together[:, 1], backbone(pictures(4)).norm(dim=1))
    with pytest.raises(ValueError, match="at least one tap"):
        ActivationNorms([])


def test_the_gradient_of_log_norms_survives_an_in_place_activation_and_a_dead_tap():
    backbone = segmenter()
    backbone.network[2].weight.data.zero_()
    backbone.network[2].bias.data.zero_()  # its output, and that of the tanh, are zeros: norm 0
    alive, both = ActivationNorms([Tap("0")], "alive"), ActivationNorms([Tap("0"), Tap("2"), Tap("3")], "both")
    probe = Probe(backbone, [alive, both])
    x = pictures().requires_grad_()
    seen = probe(x)
    values = log_norms(both)(seen, None), log_norms(alive)(seen, None)
    wanted = torch.autograd.grad(F.conv2d(
        (x - backbone.mean) / backbone.std, backbone.network[0].weight, backbone.network[0].bias, padding=1
    ).flatten(1).norm(dim=1).log().sum(), x)[0]  # fmt: skip
    for value in values:
        (gradient,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
        torch.testing.assert_close(gradient, wanted)
    assert values[0].isfinite().all()


@pytest.mark.parametrize("make", [segmenter, classifier])
def test_moves_on_one_batch_are_the_attack(make):
    backbone = make()
    reader = ActivationNorms([Tap("0")])
    probe, images = Probe(backbone, [reader]), pictures()
    attack = Attack(LinfBall(0.05), MomentumSign(0.01), 4, SharedDelta())
    whole = attack(probe, images, log_norms(reader))
    delta, state, values = torch.zeros(1, 3, *SIZE), None, []
    with torch.no_grad():
        for step in range(4):
            move = attack.move(probe, images, log_norms(reader), delta, state, step=step)
            delta, state = move.parameters, move.state
            values.append(move.values[0])
    assert torch.equal(delta, whole.parameters)
    assert torch.equal(torch.stack(values), whole.trace[0, :-1])
    assert not delta.requires_grad


def test_a_move_carries_the_state_of_a_rule_and_refuses_bad_images():
    attack = Attack(LinfBall(0.05), SignStep(0.01), 4, SharedDelta(), rule=Orthogonal())
    probe = Probe(segmenter())
    with pytest.raises(ValueError, match="needs two objectives, the model's and the monitor's, not 1"):
        attack.move(probe, pictures(), cross_entropy, torch.zeros(1, 3, *SIZE))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        attack.move(probe, 255 * pictures(), [cross_entropy, cross_entropy], torch.zeros(1, 3, *SIZE))


# --- the whole --------------------------------------------------------------------------------------------------------


def plain_gd_uap(backbone: Backbone, delta: Tensor, steps: int) -> Tensor:
    """The prior `none` by other means: torch.optim.Adam on plain hooks, on the network itself."""
    delta = nn.Parameter(delta.clone())
    optimiser = torch.optim.Adam([delta], lr=STEP)
    seen: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda _, __, out: seen.append(out.clone().norm().log()))
        for module in backbone.network
        if isinstance(module, nn.Conv2d)
    ]
    for _ in range(steps):
        seen.clear()
        optimiser.zero_grad()
        backbone.network(delta / backbone.std)  # what the network sees where the image is its mean
        (-sum(seen)).backward()
        optimiser.step()
        delta.data.clamp_(-EPS, EPS)
    for handle in handles:
        handle.remove()
    return delta.detach()


def test_without_data_it_is_plain_adam_on_the_log_norms_of_a_network_that_sees_the_delta_alone():
    backbone = segmenter()
    made = quick(backbone, iterations=40, validate_every=40, seed=3)
    start = LinfBall(EPS).sample(torch.zeros(1, 3, *SIZE), after_what_is_drawn_before(backbone, seed=3))
    assert (made.delta - start).abs().max() > 30 * STEP
    torch.testing.assert_close(made.delta, plain_gd_uap(backbone, start, 40), rtol=0, atol=0.1 * STEP)
    assert made.made.taps == ("0", "2", "4")


def after_what_is_drawn_before(backbone: Backbone, seed: int) -> torch.Generator:
    generator = torch.Generator().manual_seed(seed)
    universal.gaussian_images(backbone, (3, *SIZE), universal.SUBSTITUTES, generator)
    return generator


@pytest.mark.parametrize("prior", universal.PRIORS)
@pytest.mark.parametrize("make", [segmenter, classifier])
def test_every_prior_raises_the_activations_of_images_it_never_saw(prior, make):
    backbone = make()
    made = quick(backbone, prior=prior, iterations=150, validate_every=150, images=given(prior), batch_size=2)
    random = made.eps * (2 * torch.rand(made.delta.shape, generator=torch.Generator().manual_seed(7)) - 1)
    unseen = 0.25 + 0.5 * pictures(6, seed=9)
    reader = ActivationNorms([Tap.parse(tap) for tap in made.made.taps])
    probe = Probe(backbone, [reader])

    def raised(images: Tensor) -> float:
        return log_norms(reader)(probe(images), None).mean().item()

    assert raised(made(unseen)) > raised(unseen + random)
    assert raised(made(unseen)) > raised(unseen) + 1e-3
    assert made.delta.abs().max() <= EPS
    assert made.made.prior == prior


def given(prior: str) -> Tensor | None:
    return 0.25 + 0.5 * pictures(8) if prior == "data" else None


@pytest.mark.parametrize("prior", universal.PRIORS)
def test_the_same_seed_makes_the_same_delta_and_another_another(prior):
    backbone = segmenter()

    def make(seed: int) -> UniversalDelta:
        return quick(backbone, prior=prior, images=given(prior), seed=seed)

    state = torch.get_rng_state()
    first, again, other = make(0), make(0), make(1)
    assert torch.equal(first.delta, again.delta)
    assert first.made == again.made
    assert not torch.equal(first.delta, other.delta)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_delta_stuck_at_the_border_is_halved_and_one_that_is_not_is_left():
    told: list[UniversalDelta] = []
    made = quick(segmenter(), eps=5 * STEP, iterations=60, validate_every=1, patience=60, told=told.append).made
    assert made.halvings
    saturated = {row.iteration: row.saturated for row in made.validations}
    assert saturated[0] == 0
    stuck = [i for i in range(1, 60) if saturated[i] > 0.5 and abs(saturated[i] - saturated[i - 1]) < 1e-5]
    assert list(made.halvings) == stuck
    for halved in made.halvings:
        assert saturated[halved + 1] == 0  # half an eps and one step are not at the border
    assert not quick(segmenter(), eps=0.2, iterations=60).made.halvings


def test_it_is_validated_when_due_and_before_a_halving():
    made = quick(segmenter(), eps=5 * STEP, iterations=100, validate_every=30, patience=100).made
    asked = [row.iteration for row in made.validations]
    assert (asked[0], asked[-1]) == (0, 100)
    marks = sorted({0, *asked, *made.halvings})
    assert max(after - before for before, after in pairwise(marks)) <= 30
    for halved in made.halvings:
        since = halved - max(mark for mark in marks if mark < halved)
        assert (halved in asked) == (2 * since > 30)


def test_the_best_validation_is_kept_and_so_many_misses_end_it(monkeypatch):
    rates = iter([0.9, 0.1, 0.3, 0.3, 0.2, 0.25, 0.1, 0.9, 0.9])
    monkeypatch.setattr(universal.Trial, "fooled", lambda self, delta: next(rates))
    told: list[UniversalDelta] = []
    done: list[tuple[str, int, int]] = []
    made = quick(
        segmenter(), iterations=100, validate_every=2, patience=3, told=told.append,
        progress=lambda *said: done.append(said),
    )  # fmt: skip
    assert [row.fooled for row in made.made.validations] == [0.9, 0.1, 0.3, 0.3, 0.2, 0.25, 0.1]  # .9 is the start's
    assert made.made.kept == 6  # the later one of two equal ones
    assert made.made.stopped == "patience"
    assert [best.made.kept for best in told] == [2, 4, 6, 6, 6, 6]
    assert [best.made.stopped for best in told] == ["not yet"] * 5 + ["patience"]
    assert torch.equal(made.delta, told[2].delta)
    assert not torch.equal(made.delta, told[1].delta)
    assert (done[0], done[-1]) == (("gd_uap", 1, 100), ("gd_uap", 100, 100))
    assert len(done) == 12


def test_fooled_is_the_share_of_the_prediction_that_changes():
    for backbone in (segmenter(), classifier()):
        images = 0.25 + 0.5 * pictures(5)
        delta = 0.3 * (2 * torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(2)) - 1)
        changed = backbone.predict((images + delta).clamp(0, 1)) != backbone.predict(images)
        assert changed.any()
        assert universal.Trial(backbone, images).fooled(delta) == pytest.approx(changed.float().mean().item())


def test_the_data_prior_holds_out_a_quarter_to_validate_on(monkeypatch):
    seen: list[Tensor] = []
    original = Attack.move
    monkeypatch.setattr(
        Attack, "move", lambda self, probe, images, *rest, **more: (seen.append(images), original(
            self, probe, images, *rest, **more))[1]
    )  # fmt: skip
    trials: list[Tensor] = []
    init = universal.Trial.__init__
    monkeypatch.setattr(
        universal.Trial, "__init__", lambda self, backbone, images: (trials.append(images), init(
            self, backbone, images))[1]
    )  # fmt: skip
    shown = pictures(12)
    made = quick(segmenter(), prior="data", images=shown, batch_size=3, iterations=40, validate_every=40)
    assert made.made.validated_on == "held-out images"
    (held,) = trials
    assert len(held) == 3
    used = {number for batch in seen for image in batch for number in range(12) if torch.equal(image, shown[number])}
    assert len(used) == 9
    assert not any(torch.equal(shown[number], image) for number in used for image in held)
    assert {len(batch) for batch in seen} == {3}
    one = quick(segmenter(), prior="data", images=shown[:1])
    assert one.made.validated_on == "the same images"
    other = quick(segmenter(), prior="data", images=shown, substitutes=TensorImages(pictures(2, seed=5)))
    assert other.made.validated_on == "given images"
    assert len(trials[-1]) == 2


def test_gaussian_images_have_the_networks_mean_in_the_images_order_and_stay_in_range():
    backbone = segmenter(bgr=True, mean=(0.2, 0.5, 0.7))
    drawn = universal.gaussian_images(backbone, (3, 40, 50), 20, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean((0, 2, 3)), torch.tensor([0.7, 0.5, 0.2]), rtol=0, atol=0.01)
    torch.testing.assert_close(drawn.std((0, 2, 3)), torch.tensor([0.15, 0.25, 0.1]), rtol=0, atol=0.015)
    assert drawn.amin() >= 0
    assert drawn.amax() <= 1
    plain = segmenter(mean=(0.0,), std=(1.0,))
    assert torch.equal(universal.middle(plain, 3), torch.full((1, 3, 1, 1), 0.5))
    zeros = backbone.prepare(universal.middle(backbone, 3).expand(1, 3, 4, 4))
    torch.testing.assert_close(zeros, torch.zeros(1, 3, 4, 4), rtol=0, atol=1e-6)


def test_a_pool_that_is_too_small_holds_each_image_as_often(monkeypatch):
    monkeypatch.setattr(universal, "POOL_BYTES", 0)
    monkeypatch.setattr(universal, "SUBSTITUTES", 4)
    images = torch.linspace(0, 1, 10).view(10, 1, 1, 1).expand(10, 3, 2, 2)
    counts = torch.zeros(10)
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        pool = universal.drawn_from(images, (3, 2, 2), generator)
        assert len(pool) == len(set(pool[:, 0, 0, 0].tolist())) == 4
        counts[(pool[:, 0, 0, 0] * 9).round().long()] += 1
    assert (counts - 400).abs().max() < 4.5 * (1000 * 0.4 * 0.6) ** 0.5


def test_a_delta_is_added_and_clipped_and_wants_images_of_its_size():
    made = quick(segmenter())
    x = pictures()
    assert torch.equal(made(x), (x + made.delta).clamp(0, 1))
    assert torch.equal(made(x), torch.cat([made(image) for image in x.split(1)]))
    with pytest.raises(Mismatch, match=r"\(3, 8, 10\), and \(3, 10, 8\) came. Resize the images, or make a delta"):
        made(x.transpose(2, 3))


def test_what_becomes_of_images_is_told_as_of_any_attack():
    backbone = segmenter()
    made, x = quick(backbone), pictures()
    found = made.attack(Probe(backbone), x)
    torch.testing.assert_close(found.images, made(x))
    assert torch.equal(found.before, backbone.predict(x))
    assert torch.equal(found.after, backbone.predict(found.images))
    torch.testing.assert_close(found.damage, (found.after != found.before).float().mean((1, 2)))
    assert (found.moves.sum(), found.dead_gradients) == (0, 0)
    assert found.config == made.made.model_dump(mode="json")


def test_a_delta_is_made_for_any_taps_and_any_size():
    backbone = segmenter()
    made = gd_uap(backbone, (5, 7), prior="none", taps=["1", "3"], iterations=2)
    assert made.made.taps == ("1", "3")
    assert made.delta.shape == (1, 3, 5, 7)
    everywhere = gd_uap(backbone, SIZE, prior="none", taps="everywhere", iterations=1).made.taps
    assert list(everywhere) == [str(tap) for tap in Anatomy.of(backbone, SIZE).everywhere()]


def test_the_network_is_left_as_it_was():
    backbone = segmenter()
    before = backbone.fingerprint()
    with torch.no_grad():
        quick(backbone)
    assert backbone.fingerprint() == before
    assert all(parameter.grad is None for parameter in backbone.network.parameters())
    assert not any(module._forward_hooks or "forward" in vars(module) for module in backbone.modules())


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_delta_comes_back_from_its_file_as_it_was(tmp_path):
    made = quick(segmenter(), prior="gaussian")
    made.save(tmp_path / "delta.safetensors")
    back = UniversalDelta.load(tmp_path / "delta.safetensors")
    assert torch.equal(back.delta, made.delta)
    assert back.made == made.made
    assert back.made.backbone == segmenter().fingerprint()
    assert back.eps == EPS


def test_what_holds_no_delta_is_refused_with_a_reason(tmp_path):
    made, path = quick(segmenter()), tmp_path / "delta.safetensors"
    told = json.loads(made.made.model_dump_json())

    def written(delta: Tensor, **changes: object) -> str:
        write_tensors(path, {"delta": delta}, {"made": json.dumps({**told, **changes})})
        return str(path)

    with pytest.raises(FileNotFoundError):
        UniversalDelta.load(path)
    write_tensors(path, {"weight": torch.ones(2)})
    with pytest.raises(Mismatch, match="holds no universal delta; make one with `inlier uap`"):
        UniversalDelta.load(path)
    with pytest.raises(Mismatch, match="is of format 99, this inlier reads 1"):
        UniversalDelta.load(written(made.delta, format_version=99))
    with pytest.raises(Mismatch, match="damaged or of another inlier"):
        UniversalDelta.load(written(made.delta, colour="blue"))
    for delta in (made.delta * 100, made.delta * torch.nan, made.delta[..., 1:]):
        with pytest.raises(Mismatch, match="is damaged: it says"):
            UniversalDelta.load(written(delta))
    UniversalDelta.load(written(made.delta))


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_cannot_be_made_is_refused_with_a_reason():
    backbone = segmenter()
    with pytest.raises(ValueError, match="prior is one of none, gaussian, data, not 'range'"):
        quick(backbone, prior="range")
    with pytest.raises(ValueError, match="The prior 'data' needs clean images"):
        quick(backbone, prior="data")
    with pytest.raises(ValueError, match="The prior 'none' looks at no images"):
        quick(backbone, images=pictures())
    with pytest.raises(ValueError, match="are at least 1, not iterations=0, patience=0"):
        quick(backbone, iterations=0, patience=0)
    with pytest.raises(ValueError, match=r"\(3, 8, 10\), and one of \(3, 10, 8\) came"):
        quick(backbone, substitutes=pictures().transpose(2, 3))
    with pytest.raises(ValueError, match="eps must be positive"):
        quick(backbone, eps=0.0)
    with pytest.raises(ValueError, match=r"No taps are named 'convs'. Did you mean 'conv'"):
        quick(backbone, taps="convs")
    backbone.network[0].weight.data.zero_()
    with pytest.raises(ValueError, match="No gradient leads from the taps to the images"):
        quick(backbone, taps="0")


# --- a real network ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_on_camvid_it_changes_more_than_noise_of_its_size_also_when_transferred(data):
    size = (90, 120)
    victim = espnet(data / "weights" / "espnet_decoder_camvid_p2_q8.safetensors")
    other = espnet(data / "weights" / "espnet_decoder_cityscapes_p2_q8.safetensors")
    images = next(ImageFolder(data / "camvid" / "train", size=size).batches(4)).images
    drawn = universal.gaussian_images(victim, (3, *size), 2, torch.Generator().manual_seed(1))
    trial = universal.Trial(victim, images)
    noise = EPS * (2 * torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) - 1)
    for backbone in (victim, other):
        made = gd_uap(backbone, size, iterations=25, validate_every=25, substitutes=drawn)
        assert trial.fooled(made.delta) > trial.fooled(noise) + 0.01
