"""Readers: samples equal up-sample-then-index bit for bit, statistics their formulas; in-place is harmless."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inlier.anatomy import Anatomy, KeyRing
from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.backbones.espnet import ESPNet, espnet
from inlier.datasets.folder import ImageFolder
from inlier.errors import Mismatch
from inlier.probe import Probe
from inlier.readers import ActivationNorms, ChannelStatistics, FeatureMap, SampledActivations, logits
from inlier.sampling import SamplingKey, blue_noise, uniform
from inlier.taps import OUTPUT, Tap


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def seeded(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return network


# --- sampled activations ----------------------------------------------------------------------------------------------


def upsampled_then_indexed(backbone, images, key, shapes):
    """The slow way, by other means: plain hooks, nearest up-sampling, indexing; one tap at a time."""
    values = torch.full((len(images), len(key)), torch.nan)
    start = 0
    seen = {}
    handles = [
        backbone.network.get_submodule(tap.module).register_forward_hook(
            lambda _, __, out, tap=tap: seen.update({tap: out.clone()})
        )
        for tap in shapes
    ]
    backbone(images)
    for handle in handles:
        handle.remove()
    for tap, (channels, *_) in shapes.items():
        inside = (key.points[:, 0] >= start) & (key.points[:, 0] < start + channels)
        for where in inside.nonzero()[:, 0]:
            channel, y, x = key.points[where].tolist()
            up = F.interpolate(seen[tap][:, channel - start, None], size=key.volume[1:], mode="nearest")
            values[:, where] = up[:, 0, y, x]
        start += channels
    return values


def sampled(backbone, images, distance, seed):
    anatomy = Anatomy.of(backbone, tuple(images.shape[-2:]))
    shapes = anatomy.everywhere()
    key = blue_noise((sum(shape[0] for shape in shapes.values()), *anatomy.size), distance, seed)
    reader = SampledActivations(key, shapes)
    return reader, key, shapes


@torch.no_grad()
def test_reading_camvid_equals_up_sampling_then_indexing_bit_for_bit(data):
    backbone = espnet(data / "weights" / "espnet_decoder_camvid_p2_q8.safetensors")
    images = next(ImageFolder(data / "camvid" / "test").batches(2)).images
    assert images.shape == (2, 3, 360, 480)
    reader, key, shapes = sampled(backbone, images, 64, seed=0)
    assert len(key) > 2000
    assert torch.equal(
        Probe(backbone, [reader])(images).readings["sampled"], upsampled_then_indexed(backbone, images, key, shapes)
    )


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(250, 333), (41, 67), (17, 9), (64, 96)])
def test_reading_images_of_any_size_equals_up_sampling_then_indexing_bit_for_bit(height, width):
    backbone = Backbone(seeded(ESPNet(12, p=2, q=3)), Segmentation(tuple("abcdefghijkl")))
    images = noise(2, 3, height, width)
    reader, key, shapes = sampled(backbone, images, 32, seed=1)
    values = Probe(backbone, [reader])(images).readings["sampled"]
    assert torch.equal(values, upsampled_then_indexed(backbone, images, key, shapes))
    assert values.std() > 0


@torch.no_grad()
@pytest.mark.parametrize("kind", ["balanced", "uniform"])
def test_reading_any_kind_of_key_equals_up_sampling_then_indexing_bit_for_bit(kind):
    backbone = Backbone(seeded(ESPNet(12, p=2, q=3)), Segmentation(tuple("abcdefghijkl")))
    images = noise(2, 3, 250, 333)
    anatomy = Anatomy.of(backbone, (250, 333), keys=KeyRing(seed=1))
    shapes = anatomy.everywhere()
    key = anatomy.keys.draw(kind, shapes, (250, 333), 48)
    values = Probe(backbone, [SampledActivations(key, shapes)])(images).readings["sampled"]
    assert torch.equal(values, upsampled_then_indexed(backbone, images, key, shapes))


class Allocations(TorchDispatchMode):
    """Bytes of every tensor that an operation makes anew."""

    def __init__(self):
        super().__init__()
        self.bytes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        given = {leaf.data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        fresh = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.data_ptr() not in given]
        self.bytes += [leaf.numel() * leaf.element_size() for leaf in fresh]
        return output


@torch.no_grad()
def test_no_volume_is_built_only_what_is_kept():
    backbone = Backbone(seeded(ESPNet(12, p=2, q=3)), Segmentation(tuple("abcdefghijkl")))
    images = noise(1, 3, 128, 192)
    reader, key, _ = sampled(backbone, images, 32, seed=0)
    with Allocations() as bare:
        backbone(images)
    probe = Probe(backbone, [reader])
    probe.pass_through(images)  # makes the row that single images are read into
    with Allocations() as reading:
        probe.pass_through(images)
    extra = sum(reading.bytes) - sum(bare.bytes)
    assert extra == 4 * len(key)
    assert extra < 4 * key.volume[0] * key.volume[1] * key.volume[2] / 1000
    assert sum(buffer.numel() for buffer in reader.buffers()) == len(key)


def test_points_of_a_vector_tap_are_its_channels():
    network = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)))
    backbone = Backbone(network, Classification(tuple("abcde")))
    shapes = {Tap("0"): (4, 6, 6), Tap("3"): (5, 1, 1)}
    reader = SampledActivations(SamplingKey(torch.tensor([(4, 0, 0), (8, 7, 7)]), (9, 8, 8), "r"), shapes)
    images = noise(3, 3, 8, 8)
    assert torch.equal(Probe(backbone, [reader])(images).readings["sampled"], backbone(images)[:, [0, 4]])
    assert reader.taps == (Tap("3"),)


def test_origins_say_which_tap_each_number_comes_from():
    shapes = {Tap("a"): (2, 4, 4), Tap("b"): (3, 4, 4), Tap("c"): (1, 4, 4)}
    points = torch.tensor([(0, 0, 0), (1, 2, 3), (5, 0, 0)])
    reader = SampledActivations(SamplingKey(points, (6, 4, 4), "r"), shapes)
    assert reader.taps == (Tap("a"), Tap("c"))  # no point lies in b
    assert reader.origins().tolist() == [0, 0, 1]


def test_another_image_size_than_the_keys_is_refused_with_both_sizes():
    backbone = Backbone(seeded(ESPNet(12, p=2, q=3)), Segmentation(tuple("abcdefghijkl")))
    reader, *_ = sampled(backbone, noise(1, 3, 64, 96), 16, seed=0)
    with pytest.raises(Mismatch) as error:
        Probe(backbone, [reader])(noise(1, 3, 72, 104)).readings  # noqa: B018 (asking runs the pass)
    assert "drawn for images of 64 x 96" in str(error.value)
    assert "images of 72 x 104 came" in str(error.value)
    assert "Resize the images, or draw a key" in str(error.value)


def test_a_key_for_another_number_of_channels_is_refused_with_both_numbers():
    with pytest.raises(Mismatch, match="drawn for 9 channels, the taps have 4"):
        SampledActivations(uniform((9, 4, 4), 5, 0), {Tap("a"): (4, 4, 4)})


def test_an_artefact_would_not_hold_the_places_and_they_move_with_the_reader():
    reader = SampledActivations(uniform((4, 4, 4), 5, 0), {Tap("a"): (4, 4, 4)})
    assert reader.state_dict() == {}
    assert [buffer.device.type for buffer in reader.to("meta").buffers()] == ["meta"]


# --- channel statistics -----------------------------------------------------------------------------------------------

MAPS = 3 * noise(2, 4, 11, 13) - 1
T = Tap("t")


def statistics(activation, **settings):
    reader = ChannelStatistics({T: (*activation.shape[1:], 1, 1)[:3]}, **settings)
    values = reader.combine([reader.keep(0, activation)])
    assert values.shape == (len(activation), reader.size)
    return values


def regions(values, grid):
    """Pixels [floor(i n / g), ceil((i + 1) n / g)) along each axis."""
    for i in range(grid[0]):
        for j in range(grid[1]):
            top, left = (k * n // g for k, n, g in zip((i, j), values.shape, grid, strict=True))
            bottom, right = (-(-(k + 1) * n // g) for k, n, g in zip((i, j), values.shape, grid, strict=True))
            yield values[top:bottom, left:right]


def high_frequencies(values):
    height, width = values.shape
    smooth = [
        [values[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].mean() for x in range(width)] for y in range(height)
    ]
    return (values - np.array(smooth)) ** 2


FORMULAS = {
    "mean": lambda values, grid: [region.mean() for region in regions(values, grid)],
    "std": lambda values, grid: [region.std() for region in regions(values, grid)],
    "energy": lambda values, grid: [region.mean() for region in regions(high_frequencies(values), grid)],
}


@pytest.mark.parametrize("normalise", ["none", "rms"])
@pytest.mark.parametrize("grid", [(1, 1), (4, 1), (3, 2), (11, 13), (1, 5)])
@pytest.mark.parametrize("chosen", [("mean",), ("std",), ("energy",), ("energy", "mean", "std")])
def test_channel_statistics_equal_their_formulas(chosen, grid, normalise):
    expected = []
    for image in MAPS.double().numpy():
        scaled = image / np.sqrt((image**2).mean()) if normalise == "rms" else image
        expected.append([n for name in chosen for channel in scaled for n in FORMULAS[name](channel, grid)])
    values = statistics(MAPS, grid=grid, statistics=chosen, normalise=normalise)
    # Single pixels have no deviation; its square is floored at 1e-12, and 2e-6 is left of that.
    np.testing.assert_allclose(values.double(), expected, rtol=1e-4, atol=2e-6)


def test_a_large_mean_does_not_hide_a_small_deviation():
    small = 0.01 * noise(1, 1, 40, 40).double()
    values = statistics((small + 300).float(), grid=(1, 1), statistics=("std",))
    assert values.item() == pytest.approx(small.std(correction=0).item(), rel=0.02)
    assert statistics(torch.full((1, 1, 9, 9), 300.0), statistics=("std",)).max() < 1e-5


def test_rms_makes_an_overall_gain_disappear_and_no_other_image_matters():
    settings = {"grid": (2, 3), "statistics": ("mean", "std", "energy"), "normalise": "rms"}
    values = statistics(MAPS, **settings)
    torch.testing.assert_close(statistics(7.5 * MAPS, **settings), values)
    torch.testing.assert_close(statistics(torch.cat([MAPS[:1], 100 * MAPS[1:]]), **settings), values)
    assert not torch.allclose(statistics(7.5 * MAPS, grid=(2, 3)), statistics(MAPS, grid=(2, 3)))


@pytest.mark.parametrize("normalise", ["none", "rms"])
def test_constants_have_no_energy_and_no_deviation_up_to_the_border(normalise):
    flat = torch.tensor([0.0, -2.0, 0.5, 8.0])[None, :, None, None].expand(1, 4, 9, 10)
    assert statistics(flat, grid=(3, 2), statistics=("energy",), normalise=normalise).max() < 1e-10
    assert statistics(flat, grid=(3, 2), statistics=("std",), normalise=normalise).max() < 2e-6


def test_an_activation_that_is_zero_has_finite_statistics_and_gradients():
    zeros = torch.zeros(1, 2, 5, 5, requires_grad=True)
    values = statistics(zeros, grid=(2, 1), statistics=("mean", "std", "energy"), normalise="rms")
    (gradient,) = torch.autograd.grad(values.sum(), zeros)
    assert values.isfinite().all()
    assert gradient.isfinite().all()


def test_of_a_vector_the_mean_is_the_vector():
    assert torch.equal(statistics(MAPS[..., 0, 0], grid=(1, 1)), MAPS[..., 0, 0])


def test_statistics_of_a_batch_are_those_of_its_images():
    settings = {"statistics": ("mean", "std", "energy"), "normalise": "rms"}
    one_by_one = torch.cat([statistics(image[None], **settings) for image in MAPS])
    torch.testing.assert_close(statistics(MAPS, **settings), one_by_one)


def test_statistics_of_several_taps_follow_each_other_and_know_their_origin():
    reader = ChannelStatistics({Tap("a"): (2, 8, 8), Tap("b"): (3, 8, 8)}, grid=(2, 1), statistics=("mean", "std"))
    first, second = noise(1, 2, 6, 6), noise(1, 3, 4, 4)
    values = reader.combine([reader.keep(0, first), reader.keep(1, second)])
    assert values.shape == (1, reader.size) == (1, 20)
    assert values[0, 8].item() == pytest.approx(second[0, 0, :2].mean().item())
    assert reader.origins().tolist() == [0] * 8 + [1] * 12


@pytest.mark.parametrize(
    "settings",
    [{"statistics": ()}, {"statistics": ("median",)}, {"grid": (0, 1)}, {"normalise": "max"}, {"shapes": {}}],
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValueError, match=r"ChannelStatistics needs taps, a grid of at least \(1, 1\)"):
        ChannelStatistics(**{"shapes": {T: (3, 8, 8)}, **settings})


# --- feature maps, and what they share --------------------------------------------------------------------------------


def test_a_feature_map_is_the_activation_itself():
    network = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)))
    backbone = Backbone(network, Segmentation(("a", "b")))
    images = noise(2, 3, 9, 8)
    readers = [FeatureMap(Tap("0"), (4, 7, 6), "map"), logits((2, 9, 8))]
    observation = Probe(backbone, readers)(images)
    assert torch.equal(observation.readings["map"], network[0](images))
    assert torch.equal(observation.readings["logits"], observation.output)
    assert (readers[0].size, readers[1].taps) == (4 * 7 * 6, (OUTPUT,))
    assert readers[0].origins().tolist() == [0] * (4 * 7 * 6)


READERS = {
    # of a convolution that takes a pixel off every side of the image
    "sampled": lambda tap, c, h, w: SampledActivations(uniform((c, h + 2, w + 2), 40, 0), {tap: (c, h, w)}),
    "map": lambda tap, c, h, w: FeatureMap(tap, (c, h, w), "map"),
    **{
        f"{statistic} {grid} {normalise}": lambda tap, c, h, w, s=statistic, g=grid, n=normalise: ChannelStatistics(
            {tap: (c, h, w)}, grid=g, statistics=(s,), normalise=n
        )
        for statistic in ("mean", "std", "energy")
        for grid in ((1, 1), (4, 1))
        for normalise in ("none", "rms")
    },
}


@pytest.mark.parametrize("change", [nn.ReLU, lambda inplace: nn.Hardtanh(0.1, 0.2, inplace)])
@pytest.mark.parametrize("side", ["output", "input"])
@pytest.mark.parametrize("make", READERS.values(), ids=READERS.keys())
def test_an_in_place_activation_after_the_tap_changes_neither_values_nor_gradients(make, side, change):
    results = []
    for inplace in (False, True):
        network = seeded(nn.Sequential(nn.Conv2d(3, 5, 3), change(inplace=inplace), nn.Conv2d(5, 2, 1)))
        tap = Tap("0") if side == "output" else Tap("1", "input")
        reader = make(tap, 5, 8, 9)
        images = noise(2, 3, 10, 11).requires_grad_()
        observation = Probe(Backbone(network, Segmentation(("a", "b"))), [reader])(images)
        values = observation.readings[reader.name]
        weights = noise(*values.shape, seed=3)
        (gradient,) = torch.autograd.grad((values * weights).sum() + observation.output.sum(), images)
        results.append((values.detach(), gradient))
    (values, gradient), (values_inplace, gradient_inplace) = results
    assert torch.equal(values, values_inplace)
    assert torch.equal(gradient, gradient_inplace)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("make", READERS.values(), ids=READERS.keys())
def test_gradients_of_readings_equal_finite_differences(make):
    network = seeded(nn.Sequential(nn.Conv2d(2, 5, 3), nn.Tanh())).double()
    reader = make(Tap("1"), 5, 4, 5).double()
    probe = Probe(Backbone(network, Segmentation(tuple("abcde"))).double(), [reader])
    images = noise(1, 2, 6, 7).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: probe(x).readings[reader.name], (images,))


def test_a_reader_says_what_it_keeps_and_not_where():
    reader = SampledActivations(uniform((4, 9, 9), 7, 0), {Tap("a"): (4, 9, 9)})
    assert repr(reader) == "SampledActivations(sampled: 7 numbers of 1 taps)"


def test_what_was_read_of_one_image_is_not_touched_by_the_next():
    backbone = Backbone(seeded(ESPNet(12, p=2, q=3)), Segmentation(tuple("abcdefghijkl")))
    images = noise(2, 3, 64, 96)
    reader, _, _ = sampled(backbone, images, 32, seed=0)
    probe = Probe(backbone, [reader])
    with torch.no_grad():
        first = probe(images[:1]).readings["sampled"]
        before = first.clone()
        second = probe(images[1:]).readings["sampled"]
        together = probe(images).readings["sampled"]
    assert torch.equal(first, before)
    torch.testing.assert_close(torch.cat([first, second]), together, rtol=1e-3, atol=1e-4)  # kernels differ by batch


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


SHAPE = {Tap("0"): (3, 4, 5)}


def test_two_readers_at_one_tap_take_one_norm_of_each_activation():
    norms, bands = ActivationNorms(tuple(SHAPE)), ChannelStatistics(SHAPE, normalise="rms")
    first, second = torch.rand(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), Calls() as calls:
        for activation in (first, second):
            bands.keep(0, activation), norms.keep(0, activation)
    assert sum("linalg_vector_norm" in name for name in calls.names) == 2


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_a_norm_is_that_of_the_activation_as_it_is_now(mode):
    reader = ActivationNorms(tuple(SHAPE))
    activation = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    with mode():
        changing = activation.clone()
        torch.testing.assert_close(reader.keep(0, changing), activation.flatten(1).norm(dim=1, keepdim=True))
        changing.mul_(2)
        torch.testing.assert_close(reader.keep(0, changing), 2 * activation.flatten(1).norm(dim=1, keepdim=True))


def test_a_norm_taken_without_gradients_does_not_serve_where_they_are_wanted():
    reader = ActivationNorms(tuple(SHAPE))
    activation = torch.ones(1, 3, 4, 5)
    reader.keep(0, activation)
    activation.requires_grad_()
    (gradient,) = torch.autograd.grad(reader.keep(0, activation).sum(), activation)
    torch.testing.assert_close(gradient, torch.full_like(activation, 60**-0.5))
