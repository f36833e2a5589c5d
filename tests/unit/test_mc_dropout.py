"""MC-dropout: what is dropped, for how long, and what the variance of the confidence is made of."""

import copy
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from inlier.anatomy import Anatomy
from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.backbones.espnet import ESPNet, espnet
from inlier.detectors.mc_dropout import Dropout, MCDropout, drawn
from inlier.detectors.spec import DetectorSpec
from inlier.errors import Mismatch
from inlier.files import read_tensors, write_tensors
from inlier.monitor import Monitor
from inlier.observation import Recorded
from inlier.probe import Probe

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "mc_dropout"


def images(n, seed=0, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def settled(network, task, seed=0):
    source = generator(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=source) / 2
    return Backbone(network, task)


class SequenceFirst(nn.Module):
    """Attention that keeps the axis of images second, as many do: (tokens, n, channels)."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.attention = nn.MultiheadAttention(8, 2)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).permute(2, 0, 1)
        tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(input=self.mix(tokens).relu().mean(0))


class Pretransformed(nn.Module):
    """The layers of an encoder in torch's own form, which has a fast path around its modules."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1, enable_nested_tensor=False
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


def classifier():
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)]
    return settled(nn.Sequential(*layers), Classification("abc"))


def segmenter():
    layers = [nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose2d(6, 3, 2, stride=2)]
    return settled(nn.Sequential(*layers), Segmentation("abc"))


def with_dropout_of_its_own():
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.Dropout(0.5), nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(6, 3, 1)]
    return settled(nn.Sequential(*layers), Segmentation("abc"))


def sequence_first():
    return settled(SequenceFirst(), Classification("abc"))


def pretransformed():
    return settled(Pretransformed(), Classification("abc"))


EVERY = [classifier, segmenter, with_dropout_of_its_own, sequence_first, pretransformed]


def score(backbone, shown, **settings):
    with torch.no_grad():
        return MCDropout(**settings)(Probe(backbone)(shown))


def hooks(network):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in network.modules())


# --- the score --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", EVERY)
def test_score_of_a_batch_is_the_scores_one_by_one_and_of_any_other_batch(make):
    backbone, shown = make(), images(5)
    together = score(backbone, shown)
    assert len(set(together.tolist())) == 5
    assert (together > 0).all()
    torch.testing.assert_close(together, torch.cat([score(backbone, one[None]) for one in shown]), rtol=1e-3, atol=0)
    torch.testing.assert_close(together.flip(0)[:3], score(backbone, shown.flip(0)[:3]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("make", EVERY)
def test_passes_agree_and_the_seed_decides(make):
    backbone, shown = make(), images(3)
    assert torch.equal(score(backbone, shown), score(backbone, shown))
    assert not torch.equal(score(backbone, shown), score(backbone, shown, seed=1))


@pytest.mark.parametrize("make", EVERY)
def test_without_dropout_every_score_is_zero(make):
    assert score(make(), images(3), rate=0.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("make", EVERY)
def test_the_global_randomness_is_neither_used_nor_left_changed(make):
    backbone = make()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = score(backbone, images(2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert torch.equal(score(backbone, images(2)), first)


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_it_is_the_variance_over_passes_of_the_largest_probability(pool):
    backbone, shown, source = segmenter(), images(2), generator(7)
    passes = []
    for _ in range(4):
        with Dropout(0.3).network(backbone, source), torch.no_grad():
            passes.append(backbone(shown).softmax(1).amax(1))
    expected = torch.stack(passes).var(0, correction=0)
    pooled = expected.flatten(1).amax(1) if pool == "max" else expected.flatten(1).mean(1)
    torch.testing.assert_close(score(backbone, shown, rate=0.3, passes=4, pool=pool, seed=7), pooled)
    maps = MCDropout(0.3, 4, pool, 7).maps(Probe(backbone)(shown))
    torch.testing.assert_close(maps, expected)


def test_a_classifier_has_no_maps_and_pools_nothing():
    backbone, shown = classifier(), images(3)
    assert MCDropout().maps(Probe(backbone)(shown)) is None
    assert torch.equal(score(backbone, shown, pool="max"), score(backbone, shown, pool="mean"))


def test_more_dropout_is_more_variance():
    backbone, shown = segmenter(), images(3)
    little, much = (score(backbone, shown, rate=rate, pool="mean") for rate in (0.01, 0.3))
    assert (much > little).all()


def test_a_pass_is_counted_for_each_sub_network_and_one_for_the_prediction():
    observation = Probe(segmenter())(images(2))
    MCDropout(passes=7)(observation)
    assert observation.passes == 7  # the score alone does not ask for the prediction
    _ = observation.output
    assert observation.passes == 8
    MCDropout(passes=3)(observation)
    assert observation.passes == 11


@pytest.mark.parametrize("make", EVERY)
def test_the_prediction_that_is_monitored_is_the_whole_networks(make):
    backbone, shown = make(), images(3)
    with torch.no_grad():
        expected = backbone(shown)
        observation = Probe(backbone)(shown)
        MCDropout()(observation)
        assert torch.equal(observation.output, expected)
        assert torch.equal(backbone(shown), expected)


@pytest.mark.parametrize("make", EVERY)
def test_its_gradient_is_that_of_finite_differences(make):
    # The least that maximum over pixels and classes leave smooth: one direction, double precision.
    backbone, shown = make().double(), images(2).double()
    direction = torch.randn(shown.shape, generator=generator(), dtype=torch.float64)
    leaf = shown.clone().requires_grad_()
    detector = MCDropout(0.2, 3, "mean")
    detector(Probe(backbone)(leaf)).sum().backward()
    step = 1e-6
    up, down = (score(backbone, shown + sign * step * direction, rate=0.2, passes=3, pool="mean") for sign in (1, -1))
    slope = (up - down).sum() / (2 * step)
    torch.testing.assert_close((leaf.grad * direction).sum(), slope, rtol=1e-4, atol=1e-9)


# --- what is dropped --------------------------------------------------------------------------------------------------


def test_the_share_dropped_is_the_rate():
    for rate in (0.0, 0.1, 0.5, 0.97):
        assert drawn((1, 7, 301, 199), rate, generator()).float().mean().item() == pytest.approx(rate, abs=2e-3)


def test_draws_are_independent_from_value_to_value():
    dropped = drawn((400_000,), 0.1, generator()).float() - 0.1
    for apart in (1, 2, 3, 4, 8):  # four decisions come from one random number
        assert abs((dropped[apart:] * dropped[:-apart]).mean().item()) < 4 * 0.09 / 400_000**0.5


def test_a_convolution_loses_single_values_and_the_rest_is_scaled():
    backbone = Backbone(nn.Conv2d(3, 3, 1, bias=False), Segmentation("abc"))
    backbone.network.weight.data = torch.eye(3)[:, :, None, None]
    with Dropout(0.25).network(backbone, generator()):
        seen = backbone(torch.ones(2, 3, 40, 40))
    assert seen.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(seen[0], seen[1])  # the same of every image
    assert not torch.equal(seen[0, 0], seen[0, 1])  # but not whole pixels, and no whole channels:
    assert (seen == 0).float().mean((2, 3)).flatten().tolist() == pytest.approx([0.25] * 6, abs=0.05)


def test_a_linear_layer_loses_features_the_same_for_every_token():
    backbone = Backbone(nn.Linear(64, 64, bias=False), Classification([str(i) for i in range(64)]))
    backbone.network.weight.data = torch.eye(64)
    with Dropout(0.25).network(backbone, generator()):
        seen = backbone.network(torch.ones(5, 2, 64))
    assert (seen == seen[0, 0]).all()
    assert 5 < (seen[0, 0] == 0).sum() < 30


def test_expected_activations_are_those_without_dropout():
    backbone, shown, source = Backbone(nn.Conv2d(3, 3, 1), Segmentation("abc")), images(1), generator()
    total = torch.zeros(1, 3, 16, 16)
    for _ in range(1000):
        with Dropout(0.2).network(backbone, source):
            total += backbone(shown)
    torch.testing.assert_close(total / 1000, backbone(shown), rtol=0, atol=0.05)


def test_every_weight_layer_of_espnet_is_reached():
    backbone, reached = Backbone(ESPNet(12), Segmentation([str(i) for i in range(12)])), {}
    layers = [m for m in backbone.network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    with Dropout(0.5).network(backbone, generator()), torch.no_grad():
        watch = [m.register_forward_hook(lambda m, args, _: reached.update({m: args[0]})) for m in layers]
        backbone(images(1, size=32))
    for handle in watch:
        handle.remove()
    assert len(layers) > 60
    for layer in layers:
        assert (reached[layer] == 0).float().mean() > 0.2


def test_attention_loses_features_of_its_inputs_though_it_has_a_fast_path():
    backbone, seen = pretransformed(), []
    attention = backbone.network.encoder.layers[0].self_attn
    with Dropout(0.5).network(backbone, generator()), torch.no_grad():
        handle = attention.register_forward_pre_hook(lambda m, args: seen.extend(args))
        backbone.network.encoder(torch.ones(2, 16, 8))
    handle.remove()
    query, key, value = seen[:3]
    assert query is key is value  # self-attention stays that of one tensor with itself
    assert 0 < (query == 0).float().mean() < 1
    assert (query == query[0, 0]).all()


def test_dropout_of_the_networks_own_stays_off():
    backbone, shown = with_dropout_of_its_own(), images(2)
    bare = copy.deepcopy(backbone)
    bare.network = nn.Sequential(*(m for m in bare.network if not isinstance(m, nn.Dropout | nn.Dropout2d)))
    assert torch.equal(score(backbone, shown), score(bare, shown))
    assert not any(module.training for module in backbone.modules())


# --- for how long -----------------------------------------------------------------------------------------------------


class Raising(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("out of order")
        return self.first(x)


def test_no_hook_survives_a_pass_or_a_raising_model():
    backbone, shown = Backbone(Raising(), Segmentation("abc")), images(2)
    with pytest.raises(RuntimeError, match="out of order"):
        score(backbone, shown)
    assert hooks(backbone.network) == 0
    assert score(backbone, shown).shape == (2,)  # and it is in order again
    assert hooks(backbone.network) == 0


def test_hooks_of_the_users_own_stay_and_are_heard_first():
    backbone, shown = segmenter(), images(2)
    seen = []
    doubled = backbone.network[0].register_forward_pre_hook(lambda m, args: (2 * args[0],))
    watching = backbone.network[2].register_forward_hook(lambda m, args, out: seen.append(out))
    twice = Backbone(copy.deepcopy(segmenter().network), Segmentation("abc"), std=(0.5,))
    torch.testing.assert_close(score(backbone, shown), score(twice, shown))
    assert len(seen) == 10
    assert hooks(backbone.network) == 2
    doubled.remove()
    watching.remove()


def test_readers_in_the_probe_neither_disturb_it_nor_are_disturbed():
    backbone, shown = segmenter(), images(2)
    reader = DetectorSpec.parse("mahalanobis").build(Anatomy.of(backbone, (16, 16))).requires
    with torch.no_grad():
        observation = Probe(backbone, reader)(shown)
        found = MCDropout()(observation)
        expected = Probe(backbone, reader)(shown).readings
        assert torch.equal(found, score(backbone, shown))
        assert all(torch.equal(value, expected[name]) for name, value in observation.readings.items())


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 1.0}, "at least 0 and less than 1, not 1.0"),
        ({"rate": -0.1}, "at least 0 and less than 1, not -0.1"),
        ({"passes": 1}, "at least 2 passes, not 1"),
        ({"pool": "median"}, "'max' or 'mean', not 'median'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MCDropout(**settings)


def test_a_network_without_weight_layers_is_refused():
    with pytest.raises(Mismatch, match="none of the network's 0 layers with weights"):
        score(Backbone(nn.ReLU(), Segmentation("abc")), images(1))


def test_a_network_whose_layers_do_not_run_as_modules_is_refused_instead_of_scored_with_zero():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return nn.functional.conv2d(x, self.inner.weight)

    backbone = Backbone(Around(), Segmentation("abc"))
    with pytest.raises(Mismatch, match="none of the network's 1 layers with weights"):
        score(backbone, images(1))
    assert hooks(backbone.network) == 0


def test_dropout_without_a_generator_and_readings_without_a_network_are_refused():
    with pytest.raises(ValueError, match="hand it a generator"):
        _ = Probe(segmenter())(images(1)).look(Dropout(0.1)).output
    with pytest.raises(Mismatch, match="Dropout needs the network"):
        MCDropout().variance(Kept({"logits": torch.rand(1, 3)}))


class Kept(Recorded):
    """Readings that still know their images."""

    @property
    def images(self):
        return images(1)


# --- in a monitor -----------------------------------------------------------------------------------------------------


def test_a_monitor_fits_calibrates_and_keeps_it_in_a_file(tmp_path):
    backbone, shown = segmenter(), images(3, seed=5)
    monitor = Monitor(backbone, "mc_dropout(passes=3, pool='mean', rate=0.2, seed=4)").fit(images(30))
    monitor.calibrate(false_alarm_rate=0.1)
    assert torch.equal(monitor(shown).score, score(backbone, shown, passes=3, pool="mean", rate=0.2, seed=4))
    assert torch.equal(monitor(shown).output, backbone(shown))
    torch.testing.assert_close(monitor.clean.scores["mc_dropout"][:5].float(), monitor.score(images(30)[:5]))
    monitor.save(tmp_path / "monitor.inlier")
    again = Monitor.load(tmp_path / "monitor.inlier", backbone)
    assert torch.equal(again(shown).p_value, monitor(shown).p_value)
    assert torch.equal(again(shown).score, monitor(shown).score)


# --- the paper's fine-tune --------------------------------------------------------------------------------------------


def script(name):
    spec = importlib.util.spec_from_file_location(name, EXPERIMENT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def finetune():
    return script("finetune")


@pytest.fixture(scope="module")
def few(data, tmp_path_factory):
    """The data with two frames a split."""
    folder = tmp_path_factory.mktemp("few")
    for part in ("train", "val", "test"):
        for source, suffix in ((part, "webp"), (f"{part}annot", "png")):
            (folder / "camvid" / source).mkdir(parents=True)
            for file in sorted((data / "camvid" / source).glob(f"*.{suffix}"))[:2]:
                shutil.copy(file, folder / "camvid" / source)
    (folder / "weights").symlink_to((data / "weights").resolve())
    return folder


def run(finetune, data, output, epochs):
    size = ["--size", "48", "64"]
    finetune.main(["--data", str(data), "--output", str(output), "--epochs", str(epochs), "--batch", "1", *size])


def test_a_fine_tune_is_loadable_and_leaves_the_batch_norms_statistics(finetune, few, tmp_path):
    run(finetune, few, tmp_path / "tuned.safetensors", 1)
    tuned = espnet(tmp_path / "tuned.safetensors").network.state_dict()
    given = espnet(few / finetune.WEIGHTS).network.state_dict()
    for name, tensor in tuned.items():
        changed = not torch.equal(tensor, given[name])
        assert changed != any(name.endswith(end) for end in ("running_mean", "running_var", "num_batches_tracked"))


def test_a_fine_tune_that_was_stopped_goes_on_as_if_it_had_not_been(finetune, few, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    run(finetune, few, whole, 2)
    original = finetune.epoch

    def killed_in_the_second(*arguments):
        if arguments[-1] == 1:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(finetune, "epoch", killed_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(finetune, few, parts, 2)
    monkeypatch.setattr(finetune, "epoch", original)
    run(finetune, few, parts, 2)
    expected, found = read_tensors(whole)[0], read_tensors(parts)[0]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_a_checkpoint_of_another_run_is_refused(finetune, few, tmp_path):
    write_tensors(tmp_path / "a.checkpoint.safetensors", {"x": torch.zeros(1)}, {"config": "{}", "history": "[]"})
    with pytest.raises(Mismatch, match="Give the same settings, or another output"):
        run(finetune, few, tmp_path / "a.safetensors", 1)


def test_class_weights_are_espnets_formula_over_labelled_pixels(finetune):
    labels = torch.tensor([[[0, 0, 0, 1], [2, 2, 2, 2]]], dtype=torch.uint8)
    expected = [1 / torch.tensor(1.1 + share).log().item() for share in (0.75, 0.25)]
    assert finetune.class_weights(labels, 3, 2).tolist() == pytest.approx([*expected, 0])


@pytest.mark.slow
def test_an_evaluation_has_every_network_detector_and_perturbation(few, tmp_path, capsys):
    evaluate, results = script("evaluate"), tmp_path / "results.json"
    evaluate.main(["--data", str(few), "--results", str(results)])
    networks = json.loads(results.read_text())["networks"]
    assert set(networks) == {"published"}  # without fine-tuned weights there is no other
    assert networks["published"]["frames"] == 2
    assert 0.3 < networks["published"]["mean_iou"] < 0.9
    detectors = networks["published"]["detectors"]
    assert set(detectors) == {"mc_dropout", "mc_dropout(pool='mean')", "max_softmax", "energy"}
    for rows in detectors.values():
        assert set(rows) == {"fog", "vertical_flip", "gaussian_noise"}
        assert all(0 <= value <= 1 for row in rows.values() for value in row.values())
    assert "max_softmax" in capsys.readouterr().out
