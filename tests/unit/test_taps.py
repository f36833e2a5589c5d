"""Taps: they are found in running order, call back with what is there at that moment, and leave no hook behind."""

import warnings

import pytest
import torch
from torch import nn

from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.errors import Mismatch
from inlier.taps import OUTPUT, Listener, Place, Tap, find_taps, list_taps

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


# --- what cannot be tapped ------------------------------------------------------------------------------------------


def problems(backbone, size=(8, 10)):
    return {str(place.tap): place.problem for place in list_taps(backbone, size) if place.problem}


def test_every_side_of_every_module_is_listed_with_its_shape_or_the_reason_why_not(backbone):
    places = list_taps(backbone, (8, 10))
    assert {place.tap.module for place in places} == {name for name, _ in backbone.network.named_modules()}
    assert len(places) == 2 * len(list(backbone.network.modules()))
    assert all((place.shape is None) == bool(place.problem) for place in places)
    assert problems(backbone) == {
        "twice:input": "runs 2 times in a forward pass",
        "twice": "runs 2 times in a forward pass",
        "split": "passes tuple, not a tensor",
        "named:input": "gets no input by position",
        "unused:input": "never runs",
        "unused": "never runs",
    }


def test_places_come_in_running_order_and_those_that_never_run_last(backbone):
    outputs = [place.tap.module for place in list_taps(backbone, (8, 10)) if place.tap.side == "output"]
    assert outputs == ["first", "twice", "split", "named", "last", "", "unused"]


def test_a_place_says_what_its_module_is(backbone):
    place = list_taps(backbone, (8, 10))[1]
    assert place == Place(Tap("first", "input"), "Conv2d", "convolution", True, (3, 8, 10))
    network = nn.Sequential(nn.Sequential(nn.BatchNorm2d(3)), nn.ConvTranspose2d(3, 2, 1))
    places = {str(place.tap): place for place in list_taps(Backbone(network, Segmentation(("a", "b"))), (4, 4))}
    assert (places["0"].leaf, places["0"].role) == (False, "")
    assert (places["0.0"].leaf, places["0.0"].role) == (True, "batch_norm")
    assert places["1"].role == "convolution"


def test_the_taps_found_are_the_leaves_of_the_list(backbone):
    listed = {place.tap: place.shape for place in list_taps(backbone, (8, 10)) if place.leaf and place.shape}
    assert list(find_taps(backbone, (8, 10)).items()) == list(listed.items())


class Odd(nn.Module):
    """Modules whose outputs are no activations of the images one by one."""

    def __init__(self):
        super().__init__()
        self.same_for_all = nn.Embedding(5, 4)
        self.whole_numbers = nn.Identity()
        self.one_axis = nn.Identity()
        self.five_axes = nn.Identity()
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        self.same_for_all(torch.arange(5)[None])
        self.whole_numbers(x.argmax(1))
        self.one_axis(x.mean((1, 2, 3)))
        self.five_axes(x[:, None])
        return self.head(x.mean((2, 3)))


def test_what_is_no_activation_of_the_images_one_by_one_is_no_tap():
    told = problems(Backbone(Odd(), Classification(("a", "b"))))
    assert {name: problem for name, problem in told.items() if ":" not in name} == {
        "same_for_all": "has no axis of images in front: (1, 5, 4) came for 2 images",
        "whole_numbers": "passes int64, not real numbers",
        "one_axis": "passes a tensor of 1 axes, not of 2, 3 or 4",
        "five_axes": "passes a tensor of 5 axes, not of 2, 3 or 4",
    }


def test_another_name_of_a_module_is_told_as_such():
    act = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(3, 2, 1), act, nn.Conv2d(2, 2, 1), act)
    told = problems(Backbone(network, Segmentation(("a", "b"))))
    assert told["1"] == "runs 2 times in a forward pass"
    assert told["3"] == "is the module '1' under another name"


class Tokens(nn.Module):
    """Patches as tokens through a transformer block."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.block(tokens).mean(1))


def test_tokens_are_maps_of_one_column():
    backbone = Backbone(Tokens(), Classification(("a", "b")))
    shapes = {str(place.tap): place.shape for place in list_taps(backbone, (6, 8))}
    assert shapes["patches"] == (8, 3, 4)
    assert shapes["block"] == shapes["block.linear2"] == (8, 12, 1)
    assert shapes["block.linear1"] == (16, 12, 1)
    with torch.no_grad(), Listener(backbone, [(Tap("block"), keep)]).listening() as kept:
        backbone(IMAGES[:, :, :6, :8])
    with torch.no_grad():
        tokens = backbone.network.patches(IMAGES[:, :, :6, :8]).flatten(2).transpose(1, 2)
        expected = backbone.network.block(tokens)
    torch.testing.assert_close(kept[0], expected.transpose(1, 2)[..., None])


def test_whatever_is_found_inside_a_transformer_layer_is_heard_although_the_layer_has_a_shortcut():
    backbone = Backbone(Tokens(), Classification(("a", "b")))
    found = find_taps(backbone, (6, 8))
    assert Tap("block.linear1") in found
    for tap, shape in found.items():
        with torch.no_grad(), Listener(backbone, [(tap, keep)]).listening() as kept:
            backbone(IMAGES[:, :, :6, :8])
        assert kept[0].shape[1:] in (shape, shape[:1]), tap


def test_an_in_place_activation_after_a_tap_does_not_change_what_was_kept():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1))
    backbone = Backbone(network, Segmentation(("a", "b")))
    keeps = [(Tap("0"), torch.clone), (Tap("1", "input"), torch.clone), (Tap("1"), torch.clone)]
    with torch.no_grad(), Listener(backbone, keeps).listening() as kept:
        backbone(IMAGES)
    before = network[0](IMAGES)
    assert before.min() < 0
    assert torch.equal(kept[0], before)
    assert torch.equal(kept[1], before)
    assert torch.equal(kept[2], before.relu())


# --- torch.compile ----------------------------------------------------------------------------------------------------


@pytest.fixture
def network():
    torch._dynamo.reset()
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), nn.Conv2d(4, 2, 1))


def in_place(module):
    module.compile(backend="eager")
    return module


def compiled(module):
    return torch.compile(module, backend="eager")


def traced(module, shape):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # people have such networks all the same
        return torch.jit.trace(module, torch.zeros(shape))


WHOLE = [
    (compiled, "compiled: give the module before torch.compile, `network._orig_mod`"),
    (in_place, r"compiled in place: give a module whose compile\(\) was not called"),
    (lambda network: traced(network, (2, 3, 8, 10)), "TorchScript: give the module before it was scripted or traced"),
]


@pytest.mark.parametrize(("wrap", "what"), WHOLE, ids=["compiled", "in place", "traced"])
@pytest.mark.parametrize("ran", [False, True], ids=["fresh", "ran"])
def test_a_network_that_is_one_graph_is_refused_and_says_what_to_give(network, wrap, what, ran):
    backbone = Backbone(wrap(network), Segmentation(("a", "b")))
    if ran:
        backbone(IMAGES)
    with pytest.raises(Mismatch, match=f"Nothing in the network can be tapped: the network is {what}"):
        find_taps(backbone, (8, 10))
    inside = next(name for name, module in backbone.network.named_modules() if not list(module.children()))
    with pytest.raises(Mismatch, match=f"Nothing can be heard at '{inside}': the network is {what}"):
        Listener(backbone, [(Tap(inside), keep)])
    told = [place.problem for place in list_taps(backbone, (8, 10))]
    assert told
    assert set(told) == {told[0]}
    assert hooks(backbone) == ("forward" in vars(backbone.network))  # torch.compile puts its own there
    assert backbone(IMAGES).shape == (2, 2, 8, 10)


def test_the_logits_of_a_compiled_network_can_be_heard(network):
    backbone = Backbone(compiled(network), Segmentation(("a", "b")))
    with Listener(backbone, [(OUTPUT, keep)]).listening() as kept:
        output = backbone(IMAGES)
    assert kept[0] is output


@pytest.mark.parametrize("ran", [False, True], ids=["fresh", "ran"])
@pytest.mark.parametrize("wrap", [compiled, lambda module: traced(module, (2, 4, 8, 10))], ids=["compiled", "traced"])
def test_a_module_that_is_one_graph_is_heard_from_outside(network, wrap, ran):
    expected = network[1](network[0](IMAGES)).detach()
    network[1] = wrap(network[1])
    backbone = Backbone(network, Segmentation(("a", "b")))
    if ran:
        backbone(IMAGES)
    found = find_taps(backbone, (8, 10))
    assert [str(tap) for tap in found] == ["0:input", "0", "1:input", "1", "2:input", "2"]
    keeps = [(Tap("1"), keep), (Tap("1", "input"), keep)]
    for _ in range(2):
        with torch.no_grad(), Listener(backbone, keeps).listening() as kept:
            backbone(IMAGES)
        torch.testing.assert_close(kept[0], expected)
        assert torch.equal(kept[1], network[0](IMAGES))


@pytest.mark.parametrize("ran", [False, True], ids=["fresh", "ran"])
def test_what_is_inside_a_compiled_module_is_no_tap_and_says_why(network, ran):
    network[1] = compiled(network[1])
    backbone = Backbone(network, Segmentation(("a", "b")))
    if ran:
        backbone(IMAGES)
    told = problems(backbone)
    assert {name.removesuffix(":input") for name in told} == {"1._orig_mod", "1._orig_mod.0", "1._orig_mod.1"}
    assert set(told.values()) == {
        "runs inside '1', which is compiled: give the module before torch.compile, `network._orig_mod`"
    }
    with pytest.raises(
        Mismatch, match=r"Nothing can be heard at '1\._orig_mod\.0': runs inside '1', which is compiled"
    ):
        Listener(backbone, [(Tap("1._orig_mod.0"), keep)])


@pytest.mark.parametrize("ran", [False, True], ids=["fresh", "ran"])
def test_a_module_compiled_in_place_is_no_tap_since_its_hooks_are_compiled_with_it(network, ran):
    in_place(network[1])
    backbone = Backbone(network, Segmentation(("a", "b")))
    if ran:
        backbone(IMAGES)
    told = problems(backbone)
    assert {name.removesuffix(":input") for name in told} == {"1", "1.0", "1.1"}
    assert told["1"] == "is compiled in place: give a module whose compile() was not called"
    assert told["1.0"].startswith("runs inside '1', which is compiled in place")
    assert [str(tap) for tap in find_taps(backbone, (8, 10))] == ["0:input", "0", "2:input", "2"]


class CompiledFunction(nn.Module):
    """A compiled function that calls a module, which does not show from outside."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.inside = nn.Conv2d(4, 2, 1)
        self.function = torch.compile(lambda x: self.inside(x).relu(), backend="eager")

    def forward(self, x):
        return self.function(self.first(x))


@pytest.mark.parametrize("ran", [False, True], ids=["fresh", "ran"])
def test_a_module_that_a_compiled_function_calls_is_no_tap(ran):
    torch._dynamo.reset()
    backbone = Backbone(CompiledFunction(), Segmentation(("a", "b")))
    if ran:
        with torch.no_grad():
            for _ in range(2):
                backbone(torch.full((2, 3, 8, 10), 0.5))
    told = problems(backbone)
    assert set(told) == {"inside", "inside:input"}
    assert set(told.values()) <= {"runs inside a compiled function", "never runs"}
    assert [str(tap) for tap in find_taps(backbone, (8, 10))] == ["first:input", "first"]
    assert backbone(IMAGES).shape == (2, 2, 8, 10)
