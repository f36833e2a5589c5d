"""Taps: they are found in running order, call back with what is there at that moment, and leave no hook behind."""

import pytest
import torch
from torch import nn

from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.errors import Mismatch
from inlier.taps import OUTPUT, Listener, Tap, find_taps

IMAGES = torch.rand(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Modules run in another order than they were registered in; one runs twice, one never, one returns a tuple."""

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(6, 2, 1)
        self.twice = nn.ReLU()
        self.unused = nn.Conv2d(3, 3, 1)
        self.first = nn.Conv2d(3, 6, 3, stride=2)
        self.split = Split()
        self.named = Named()

    def forward(self, x):
        low, high = self.split(self.twice(self.first(x)))
        return self.last(self.named(x=self.twice(torch.cat([low, high], dim=1))))


class Split(nn.Module):
    def forward(self, x):
        return x[:, :3], x[:, 3:]


class Named(nn.Module):
    def forward(self, *, x):
        return x + 1


@pytest.fixture
def backbone():
    return Backbone(Net(), Segmentation(("a", "b")))


def hooks(backbone):
    """Of all modules: their hooks, and forwards that are not their class's."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + ("forward" in module.__dict__)
        for module in backbone.modules()
    )


def keep(activation):
    return activation


def test_a_listener_listens_again_and_hears_nothing_in_between(backbone):
    heard = []
    listener = Listener(backbone, [(Tap("first"), lambda activation: heard.append(1) or activation)])
    for _ in range(2):
        backbone(IMAGES)
        with listener.listening():
            backbone(IMAGES)
    assert heard == [1, 1]
    assert hooks(backbone) == 0


def test_a_listener_hears_one_pass_at_a_time(backbone):
    listener = Listener(backbone, [(Tap("first"), keep)])
    with listener.listening():
        with pytest.raises(RuntimeError, match="one forward pass at a time"), listener.listening():
            pass
        assert hooks(backbone) == 1
        backbone(IMAGES)
        with pytest.raises(Mismatch, match="'first' runs more than once in a forward pass"):
            backbone(IMAGES)
    assert hooks(backbone) == 0


def test_what_is_kept_outlives_the_next_pass(backbone):
    listener = Listener(backbone, [(Tap("first"), keep)])
    with listener.listening() as kept:
        backbone(IMAGES)
    with listener.listening():
        backbone(1 - IMAGES)
    assert torch.equal(kept[0], backbone.network.first(IMAGES))


def test_a_tap_is_written_and_read_back():
    for tap in (Tap("level1.conv"), Tap("level1.conv", "input"), OUTPUT):
        assert Tap.parse(str(tap)) == tap
    assert str(Tap("a", "input")) == "a:input"
    assert Tap.parse("a:output") == Tap("a")


def test_a_side_that_no_module_has_is_refused():
    with pytest.raises(ValueError, match="A tap is 'module' or 'module:input', not 'a:inside'"):
        Tap.parse("a:inside")


def test_taps_are_found_in_running_order_with_the_shapes_of_one_image(backbone):
    assert list(find_taps(backbone, (8, 10)).items()) == [
        (Tap("first", "input"), (3, 8, 10)),
        (Tap("first"), (6, 3, 4)),
        (Tap("split", "input"), (6, 3, 4)),
        (Tap("named"), (6, 3, 4)),
        (Tap("last", "input"), (6, 3, 4)),
        (Tap("last"), (2, 3, 4)),
    ]


def test_a_module_that_runs_twice_is_no_tap_whatever_passes_it():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()
            self.out = nn.Linear(3, 2)

        def forward(self, x):
            self.act(x[0])  # three axes
            return self.out(self.act(x).mean(dim=(2, 3)))

    found = find_taps(Backbone(Twice(), Classification(("a", "b"))), (4, 4))
    assert found == {Tap("out", "input"): (3, 1, 1), Tap("out"): (2, 1, 1)}


def test_a_module_whose_first_axis_is_not_the_images_is_no_tap():
    class Pixelwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.pixel = nn.Linear(3, 2)

        def forward(self, x):
            pixels = self.pixel(x.permute(0, 2, 3, 1).flatten(0, 2))
            return pixels.view(len(x), *x.shape[2:], 2).permute(0, 3, 1, 2)

    assert find_taps(Backbone(Pixelwise(), Segmentation(("a", "b"))), (4, 5)) == {}


def test_a_module_in_two_places_is_not_taken_for_two_modules():
    act = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(3, 2, 1), act, nn.Conv2d(2, 2, 1), act)
    found = find_taps(Backbone(network, Segmentation(("a", "b"))), (4, 5))
    assert {tap.module for tap in found} == {"0", "2"}


def test_a_network_that_is_one_module_has_its_two_sides():
    backbone = Backbone(nn.Conv2d(3, 2, 1), Segmentation(("a", "b")))
    assert find_taps(backbone, (4, 5)) == {Tap("", "input"): (3, 4, 5), Tap(""): (2, 4, 5)}


def test_callbacks_get_both_sides_and_the_logits(backbone):
    taps = (Tap("first"), Tap("first", "input"), OUTPUT)
    with Listener(backbone, [(tap, keep) for tap in taps]).listening() as kept:
        output = backbone(IMAGES)
    seen = dict(zip(taps, kept, strict=True))
    assert torch.equal(seen[Tap("first", "input")], IMAGES)
    assert torch.equal(seen[Tap("first")], backbone.network.first(IMAGES))
    assert seen[OUTPUT] is output


def test_an_unknown_module_is_named_with_the_nearest_and_leaves_no_hook(backbone):
    with pytest.raises(ValueError, match=r"The network has no module 'frist'\. Did you mean 'first'\?"):
        Listener(backbone, [(Tap("first"), keep), (Tap("frist"), keep)])
    assert hooks(backbone) == 0


@pytest.mark.parametrize(("tap", "what"), [(Tap("split"), "tuple"), (Tap("named", "input"), "NoneType")])
def test_what_is_no_tensor_is_named(backbone, tap, what):
    listener = Listener(backbone, [(tap, keep)])
    with pytest.raises(Mismatch, match=f"Tap '{tap}' passes {what}, not a tensor"), listener.listening():
        backbone(IMAGES)
    assert hooks(backbone) == 0


def run(backbone, listener):
    with listener.listening():
        assert hooks(backbone) == 2
        backbone(IMAGES)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["model", "callback"])
def test_no_hook_survives(backbone, monkeypatch, error, where):
    def fail(*_, **__):
        raise error

    if where == "model":
        monkeypatch.setattr(type(backbone.network.named), "forward", fail)
    of = fail if where == "callback" else keep
    listener = Listener(backbone, [(Tap("first"), of), (Tap("split", "input"), of)])
    with pytest.raises(error):
        run(backbone, listener)
    assert hooks(backbone) == 0


def test_looking_for_taps_leaves_no_hook(backbone):
    find_taps(backbone, (8, 10))
    assert hooks(backbone) == 0
    with pytest.raises(RuntimeError):
        find_taps(backbone, (8, 10), channels=4)
    assert hooks(backbone) == 0


def test_what_a_hook_of_the_user_makes_of_an_output_is_what_is_heard(backbone):
    listener = Listener(backbone, [(Tap("first"), keep)])
    handle = backbone.network.first.register_forward_hook(lambda module, args, output: 2 * output)
    with listener.listening() as kept:
        backbone(IMAGES)
    handle.remove()
    assert torch.equal(kept[0], 2 * backbone.network.first(IMAGES))


def test_a_forward_that_the_user_put_into_a_module_runs_and_stays(backbone):
    listener = Listener(backbone, [(Tap("first"), keep), (Tap("first"), torch.neg)])
    plain = backbone.network.first(IMAGES)
    backbone.network.first.forward = own = lambda images: 3 * plain
    with listener.listening() as kept:
        backbone(IMAGES)
    assert torch.equal(kept[0], 3 * plain)
    assert torch.equal(kept[1], -3 * plain)
    assert backbone.network.first.__dict__.pop("forward") is own
    with listener.listening() as kept:
        backbone(IMAGES)
    assert torch.equal(kept[0], plain)
    assert hooks(backbone) == 0


def test_hooks_of_the_user_stay(backbone):
    handle = backbone.network.first.register_forward_hook(lambda *_: None)
    with Listener(backbone, [(Tap("first"), keep)]).listening():
        backbone(IMAGES)
    find_taps(backbone, (8, 10))
    assert list(backbone.network.first._forward_hooks) == [handle.id]
