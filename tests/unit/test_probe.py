"""The probe: one pass at the moment it is needed, no trace of it afterwards, and gradients that are autograd's."""

import copy
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inlier.backbones.base import Backbone, Segmentation
from inlier.errors import Mismatch
from inlier.images import TensorImages
from inlier.observation import Look
from inlier.probe import Probe
from inlier.readers import ChannelStatistics, FeatureMap, Reader, SampledActivations, logits
from inlier.sampling import uniform
from inlier.taps import Tap

IMAGES = torch.rand(5, 3, 8, 10, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.ReLU(inplace=True)
        self.again = nn.Conv2d(6, 6, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Conv2d(6, 2, 1)
        self.unused = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.act(self.norm(self.conv(x)))
        return self.head(self.drop(self.again(self.again(x)).tanh()))


@pytest.fixture
def backbone():
    generator = torch.Generator().manual_seed(0)
    network = Net()
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) - 0.3 * (value.ndim > 1))
    return Backbone(network, Segmentation(("a", "b")), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def readers():
    shape = (6, 8, 10)
    return [
        SampledActivations(uniform(shape, 30, 0), {Tap("norm"): shape}),
        ChannelStatistics({Tap("conv"): (6, 8, 8), Tap("act", "input"): (6, 8, 8)}, statistics=("mean", "std")),
        FeatureMap(Tap("act"), shape, "map"),
        logits((2, 8, 10)),
    ]


@pytest.fixture
def probe(backbone):
    return Probe(backbone, readers())


def hooks(probe):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in probe.modules())


def passes(backbone):
    """Counts the network's forward passes behind the probe's back."""
    counted = []
    backbone.network.register_forward_hook(lambda *_: counted.append(1))
    return counted


# --- what is seen -----------------------------------------------------------------------------------------------------


def test_the_output_is_the_backbones(probe, backbone):
    assert torch.equal(probe(IMAGES).output, backbone(IMAGES))


def test_readings_are_what_the_modules_pass(probe, backbone):
    seen = probe(IMAGES).readings
    net = backbone.network
    normed = net.norm(net.conv(backbone.prepare(IMAGES)))
    assert torch.equal(seen["map"], normed.relu())
    assert torch.equal(seen["logits"], backbone(IMAGES))
    assert seen["sampled"].shape == (5, 30)
    torch.testing.assert_close(seen["statistics"][:, -24 * 2 : -24], F.adaptive_avg_pool2d(normed, (4, 1)).flatten(1))


def test_nothing_runs_before_it_is_asked_for_and_then_once(probe, backbone):
    counted = passes(backbone)
    observation = probe(IMAGES)
    assert observation.images is IMAGES
    assert (observation.passes, len(counted)) == (0, 0)
    for _ in range(2):
        assert observation.output.shape == (5, 2, 8, 10)
        assert observation.readings.keys() == {"sampled", "statistics", "map", "logits"}
        assert (observation.passes, len(counted)) == (1, 1)


def test_observing_twice_gives_the_same(probe):
    first, second = probe(IMAGES), probe(IMAGES)
    assert all(torch.equal(value, second.readings[name]) for name, value in first.readings.items())


def test_a_reader_given_twice_is_read_once_and_two_of_one_name_are_refused(backbone):
    reader, other = readers()[0], readers()[0]
    assert list(Probe(backbone, [reader, reader]).readers) == ["sampled"]
    with pytest.raises(ValueError, match="Two different readers are named 'sampled'"):
        Probe(backbone, [reader, other])


def test_a_probe_without_readers_sees_the_output(backbone):
    assert Probe(backbone)(IMAGES).readings == {}


# --- no trace ---------------------------------------------------------------------------------------------------------


class Raising(Reader):
    name = "raising"
    taps = (Tap("conv"),)
    size = 1

    def __init__(self, error):
        super().__init__()
        self.error = error

    def keep(self, position, activation):
        raise self.error

    def origins(self):
        return torch.zeros(1, dtype=torch.long)


def test_no_hook_survives_a_pass(probe):
    assert probe(IMAGES).readings
    assert hooks(probe) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_hook_survives_a_raising_model(probe, backbone, error):
    def fail(x):
        raise error

    whole = backbone.network.head.forward
    backbone.network.head.forward = fail
    with pytest.raises(error):
        probe(IMAGES).output  # noqa: B018 (asking runs the pass)
    assert hooks(probe) == 0
    backbone.network.head.forward = whole
    assert probe(IMAGES).output.shape == (5, 2, 8, 10)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_hook_survives_a_raising_reader(backbone, error):
    probe = Probe(backbone, [*readers(), Raising(error)])
    with pytest.raises(error):
        probe(IMAGES).readings  # noqa: B018
    assert hooks(probe) == 0


def test_an_observation_that_failed_can_be_asked_again(probe, backbone):
    whole = backbone.network.head.forward
    backbone.network.head.forward = None
    observation = probe(IMAGES)
    with pytest.raises(TypeError):
        observation.output  # noqa: B018
    backbone.network.head.forward = whole
    assert torch.equal(observation.output, backbone(IMAGES))


def test_the_users_module_stays_as_it_was_but_for_eval_mode_and_no_parameter_gradients():
    network = Net()
    before = copy.deepcopy(network.state_dict())
    attributes = set(vars(network))
    probe = Probe(Backbone(network, Segmentation(("a", "b"))), readers())
    images = IMAGES.clone().requires_grad_()
    probe(images).gradient(lambda seen: seen.readings["statistics"].sum(1))
    probe.train()
    probe.read(IMAGES)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())  # BatchNorm's too
    assert set(vars(network)) == attributes
    assert not any(module.training for module in network.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(images, IMAGES)


def test_a_module_that_runs_twice_is_named(backbone):
    probe = Probe(backbone, [FeatureMap(Tap("again"), (6, 8, 10), "map")])
    with pytest.raises(Mismatch, match="'again' runs more than once in a forward pass; tap a module that runs once"):
        probe(IMAGES).readings  # noqa: B018
    assert hooks(probe) == 0


def test_a_module_that_does_not_run_is_named(backbone):
    probe = Probe(backbone, [FeatureMap(Tap("unused"), (2, 8, 10), "map")])
    with pytest.raises(Mismatch, match="No activation came past unused: the forward pass does not run there"):
        probe(IMAGES).readings  # noqa: B018


def test_a_tuple_is_named_as_what_came():
    class Split(nn.Module):
        def forward(self, x):
            return x, x

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.split = Split()

        def forward(self, x):
            return self.split(x)[0]

    probe = Probe(Backbone(Model(), Segmentation(tuple("abc"))), [FeatureMap(Tap("split"), (3, 8, 10), "map")])
    with pytest.raises(Mismatch, match="Tap 'split' passes tuple, not a tensor; tap a module inside it instead"):
        probe(IMAGES).readings  # noqa: B018


# --- data sets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 5, 8])
def test_readings_of_a_batch_are_the_readings_one_by_one(probe, batch_size):
    together, alone = probe.read(IMAGES, batch_size=batch_size), probe.read(IMAGES, batch_size=1)
    for name, value in together.values.items():
        torch.testing.assert_close(value, alone.values[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(value, probe(IMAGES).readings[name], rtol=1e-5, atol=1e-6)


def test_reading_keeps_names_groups_and_order_and_asks_for_no_gradient(probe):
    source = TensorImages(IMAGES, names="vwxyz", groups="aabbb")
    read = probe.read(source, batch_size=2)
    assert (read.names, read.groups) == (tuple("vwxyz"), tuple("aabbb"))
    assert not any(value.requires_grad for value in read.values.values())


def test_reading_passes_each_image_once_also_for_what_else_is_asked(probe, backbone):
    counted = passes(backbone)
    read = probe.read(IMAGES, also={"darkest": lambda seen: seen.images.flatten(1).amin(1)}, batch_size=2)
    assert torch.equal(read.values["darkest"], IMAGES.flatten(1).amin(1))
    assert len(counted) == 3


def test_reading_tells_how_far_it_is(probe):
    told = []
    probe.read(IMAGES, batch_size=2, progress=lambda *step: told.append(step), phase="looking")
    assert told == [("looking", 2, 5), ("looking", 4, 5), ("looking", 5, 5)]


def test_reading_refuses_bad_images_and_no_images(probe):
    with pytest.raises(ValueError, match="8-bit pixels go over 255"):
        probe.read(255 * IMAGES)

    class Empty:
        def __len__(self):
            return 0

        def batches(self, size):
            return iter(())

    with pytest.raises(ValueError, match="no images to read"):
        probe.read(Empty())


# --- further looks ----------------------------------------------------------------------------------------------------


class Flip(Look):
    def __init__(self):
        self.taken = 0

    def images(self, images, generator):
        self.taken += 1
        return images.flip(-1)


class Noise(Look):
    def images(self, images, generator):
        return (images + 0.1 * torch.rand(images.shape, generator=generator)).clamp(0, 1)


class Dropout(Look):
    @contextmanager
    def network(self, backbone, generator):
        handle = backbone.network.drop.register_forward_hook(
            lambda _, __, out: 2 * out * torch.randint(0, 2, out.shape, generator=generator)
        )
        try:
            yield
        finally:
            handle.remove()


def test_a_look_is_lazy_taken_once_and_counted(probe, backbone):
    counted = passes(backbone)
    flip = Flip()
    observation = probe(IMAGES)
    seen = observation.look(flip)
    assert seen is observation.look(flip)
    assert (flip.taken, seen.passes, len(counted)) == (1, 0, 0)
    assert torch.equal(seen.output, backbone(IMAGES.flip(-1)))
    assert observation.passes == seen.passes == 1
    assert observation.output.shape == seen.output.shape
    assert observation.passes == seen.passes == 2
    assert observation.look(Flip()) is not seen


def test_a_look_with_a_generator_is_a_fresh_draw(probe):
    generator = torch.Generator().manual_seed(0)
    look, observation = Noise(), probe(IMAGES)
    first, second = observation.look(look, generator), observation.look(look, generator)
    assert not torch.equal(first.images, second.images)
    assert torch.equal(first.images, observation.look(look, torch.Generator().manual_seed(0)).images)


def test_a_look_through_a_changed_network_changes_it_for_that_pass_alone(probe, backbone):
    clean = backbone(IMAGES)
    observation = probe(IMAGES)
    seen = observation.look(Dropout(), torch.Generator().manual_seed(0))
    assert not torch.allclose(seen.output, clean)
    assert torch.equal(observation.output, clean)
    assert hooks(probe) == 0


def test_gradients_reach_the_images_through_a_look(probe):
    images = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(probe(images).look(Flip()).readings["sampled"].sum(), images)
    flipped = IMAGES.flip(-1).requires_grad_()
    (expected,) = torch.autograd.grad(probe(flipped).readings["sampled"].sum(), flipped)
    torch.testing.assert_close(gradient, expected.flip(-1))


# --- gradients --------------------------------------------------------------------------------------------------------


def score(seen):
    return seen.readings["sampled"].square().sum(1) - seen.output.logsumexp(1).mean(dim=(1, 2))


def autograd(probe, of=score):
    images = IMAGES.clone().requires_grad_()
    return torch.autograd.grad(of(probe(images)).sum(), images)[0]


@pytest.mark.parametrize("needs", [True, False])
@pytest.mark.parametrize("before", ["nothing", "without gradients", "with gradients"])
def test_a_gradient_is_autograds_whatever_was_seen_before(probe, needs, before):
    observation = probe(IMAGES.clone().requires_grad_(needs))
    if before != "nothing":
        with torch.set_grad_enabled(before == "with gradients"):
            assert observation.output.shape[0] == 5
    for _ in range(2):
        torch.testing.assert_close(observation.gradient(score), autograd(probe))
    if needs and before == "with gradients":
        assert torch.autograd.grad(score(observation).sum(), observation.images)[0].isfinite().all()


def test_a_gradient_works_where_gradients_are_off(probe):
    with torch.no_grad():
        gradient = probe(IMAGES).gradient(score)
    torch.testing.assert_close(gradient, autograd(probe))
    assert not gradient.requires_grad


def test_a_gradients_pass_is_counted_unless_it_was_made_already(probe):
    plain, attached = probe(IMAGES), probe(IMAGES.clone().requires_grad_())
    for observation in (plain, attached):
        assert observation.output.shape[0] == 5
        observation.gradient(score)
    assert (plain.passes, attached.passes) == (2, 1)


def test_a_gradient_of_a_look_is_with_respect_to_what_that_look_saw(probe):
    flipped = IMAGES.flip(-1).requires_grad_()
    (expected,) = torch.autograd.grad(score(probe(flipped)).sum(), flipped)
    torch.testing.assert_close(probe(IMAGES).look(Flip()).gradient(score), expected)


def test_a_gradient_can_be_differentiated_again(probe):
    images = IMAGES[:1].double().requires_grad_()
    probe = probe.double()

    def penalty(x):
        return probe(x).gradient(score, create_graph=True).square().sum()

    (slope,) = torch.autograd.grad(penalty(images), images)
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-6 * direction
    difference = (penalty(images + step) - penalty(images - step)) / 2e-6
    torch.testing.assert_close((slope * direction).sum(), difference.detach(), rtol=1e-4, atol=1e-6)


def test_a_probe_moves_with_its_backbone_and_its_readers(probe):
    assert probe.double()(IMAGES.double()).readings["sampled"].dtype == torch.float64
    moved = copy.deepcopy(probe).to("meta")
    assert {buffer.device.type for buffer in moved.buffers()} == {"meta"}
    assert moved(IMAGES.double().to("meta")).readings["sampled"].shape == (5, 30)
