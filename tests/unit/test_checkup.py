"""A check-up finds what is amiss with a network or with images, says what to do, and never fails at it."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.datasets.folder import ImageFolder
from inlier.evaluation import checkup
from inlier.evaluation.checkup import CHECKS, check_up
from inlier.images import Batch, TensorImages
from inlier.monitor import Monitor

CLASSES = ("sky", "road", "car")
SIZE = (16, 24)


def pictures(n, size=SIZE, seed=0):
    """Smooth pictures, each its own."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size, mode="bilinear", align_corners=True)


def network(*more):
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), *more, nn.Conv2d(8, 3, 3, stride=2, padding=1)
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return made


def dense(module=None, **settings):
    settings = {"mean": (0.5,) * 3, "std": (0.25,) * 3} | settings
    return Backbone(network() if module is None else module, Segmentation(CLASSES), **settings)


def grouped(n, count=4, **labels):
    return TensorImages(pictures(n), [f"{i}.png" for i in range(n)], [f"g{i * count // n}" for i in range(n)], **labels)


@pytest.fixture(scope="module")
def healthy():
    return check_up(dense(), grouped(120))


class Wrapped(nn.Module):
    """A network with something done to what comes out of it."""

    def __init__(self, change):
        super().__init__()
        self.inner = network()
        self.change = change

    def forward(self, images):
        return self.change(self.inner(images))


def stated(found, name, state, *words):
    """The finding, after a look at its state and its words; every one of them can be told and written down."""
    finding = found.finding(name)
    assert finding.state == state, finding
    for word in words:
        assert word in f"{finding.found} -> {finding.advice}"
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["problems"] == found.problems
    for one in found.findings:
        assert "\n" not in one.found + one.advice
        assert one.state == "ok" or one.advice, one
    return finding


# --- nothing amiss ---------------------------------------------------------------------------------------------------


def test_a_healthy_network_with_enough_images_has_no_problem_and_a_plan(healthy):
    assert [finding.name for finding in healthy.findings] == [name for name in CHECKS if name != "accuracy"]
    assert {finding.state for finding in healthy.findings} == {"ok"}
    assert healthy.problems == 0
    assert dataclasses.asdict(healthy.plan) == {
        "detector": None, "false_alarm_rate": 0.01, "folds": 5, "blocks": None, "size": None,
    }  # fmt: skip


def test_a_plan_can_be_carried_out():
    for count, groups in ((120, 4), (12, 12), (30, 1), (20, 2)):
        source = grouped(count, groups)
        plan = check_up(dense(), source).plan
        monitor = Monitor(dense(), plan.detector, seed=0).fit(source)
        monitor.calibrate(false_alarm_rate=plan.false_alarm_rate, folds=plan.folds, blocks=plan.blocks or "auto")
        assert monitor.false_alarm_rate == plan.false_alarm_rate


def test_a_check_up_changes_nothing():
    backbone = dense()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    state = torch.get_rng_state()
    check_up(backbone, grouped(12))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(backbone.state_dict()[name], tensor) for name, tensor in before.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_versions_device_and_time_are_told(healthy):
    versions = healthy.finding("versions").data
    assert versions["torch"] == torch.__version__
    assert versions["threads"] == torch.get_num_threads()
    assert healthy.finding("device").data["devices"] == ["cpu"]
    time = healthy.finding("time").data
    assert time["network"] > 0
    assert time["with_mahalanobis"] > 0


def test_a_finding_that_is_not_there_names_those_that_are(healthy):
    with pytest.raises(LookupError, match=r"No check named 'accuracy'. There are versions, device"):
        healthy.finding("accuracy")


def test_progress_tells_of_reading_and_of_every_check():
    told = []
    check_up(dense(), grouped(12), progress=lambda *step: told.append(step))
    assert told == [("reading", i + 1, 12) for i in range(12)] + [
        ("checking", i + 1, len(CHECKS)) for i in range(len(CHECKS))
    ]


# --- the network -----------------------------------------------------------------------------------------------------


def test_modules_in_training_mode_are_a_problem():
    backbone = dense(network(nn.Dropout()))
    backbone.network[3].training = True
    found = check_up(backbone, grouped(12))
    stated(found, "mode", "problem", "1 modules are in training mode, such as 3")
    stated(found, "determinism", "problem", "five passes of one image give different logits")
    assert found.plan is None


def test_batch_norms_without_running_statistics_are_a_problem():
    found = check_up(dense(network(nn.BatchNorm2d(8, track_running_stats=False))), grouped(12))
    stated(found, "mode", "problem", "1 batch norms keep no running statistics, such as 3")
    finding = stated(found, "determinism", "problem", "logits of an image in a batch of 4 differ")
    assert finding.data["five_passes_equal"]


def test_dropout_that_eval_mode_does_not_turn_off_is_a_problem():
    found = check_up(dense(Wrapped(lambda logits: F.dropout(logits, 0.5))), grouped(12))
    stated(found, "mode", "ok")
    stated(found, "determinism", "problem", "different logits", "dropout or noise")


def test_rounding_between_a_batch_and_its_images_is_no_problem(healthy):
    assert healthy.finding("determinism").data["batch_against_single"] < 1e-5


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_a_problem_and_stop_nothing(value):
    found = check_up(dense(Wrapped(lambda logits: logits * value)), grouped(12))
    finding = stated(found, "output", "problem", "the logits of 12 of 12 images are NaN or infinite")
    assert finding.data["not_finite"] == 12
    assert {"taps", "gradients", "time", "groups"} <= {one.name for one in found.findings}
    assert found.plan is None


def test_weights_that_are_nan_are_survived():
    broken = network()
    broken[0].weight.data.fill_(torch.nan)
    stated(check_up(dense(broken), grouped(12)), "output", "problem", "NaN or infinite")


def test_a_network_that_raises_is_a_problem_in_its_own_words():
    def fail(_):
        raise RuntimeError("two\nlines")

    found = check_up(dense(Wrapped(fail)), grouped(12))
    for name in ("output", "determinism", "taps", "gradients"):
        stated(found, name, "problem", "could not be checked: RuntimeError: two lines")
    stated(found, "files", "ok")
    assert found.plan is None


def test_one_class_for_everything_is_noted():
    found = check_up(dense(Wrapped(lambda logits: logits + torch.tensor([0, 1e9, 0]).view(3, 1, 1))), grouped(12))
    stated(found, "output", "note", "1 of 3 classes predicted on 12 images: always 'road'", "--mean")


def test_a_network_without_gradient_is_noted():
    def forgetful(logits):
        return logits.detach()

    finding = stated(check_up(dense(Wrapped(forgetful)), grouped(12)), "gradients", "note", "no gradient", "detach")
    assert finding.data["taps_linked"] == finding.data["taps"] == 4
    rounded = check_up(dense(Wrapped(lambda logits: logits.round())), grouped(12))
    stated(rounded, "gradients", "note", "no gradient comes from the logits")


def test_taps_that_the_gradient_does_not_link_to_the_image_are_counted():
    class Cut(nn.Module):
        def forward(self, x):
            return x.detach()

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.cut, self.other = nn.Conv2d(3, 8, 1), Cut(), nn.Conv2d(8, 3, 1)
            self.straight = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.other(self.cut(self.one(x))) + self.straight(x)

    finding = stated(check_up(dense(Branches()), grouped(12)), "gradients", "note", "2 of 4 taps", "cannot be attacked")
    assert finding.data["pixels_reached"] == 1


def test_modules_that_cannot_be_tapped_are_told_with_the_reason():
    twice = nn.ReLU()
    found = check_up(dense(network(twice, twice)), grouped(12))
    finding = stated(found, "taps", "ok", "2 cannot be tapped, mostly: runs 2 times")
    assert finding.data["not_usable"] == 2
    assert finding.data["modules"] == ["3", "4"]  # one module under two names


def test_without_taps_the_plan_is_a_detector_of_the_output():
    class Closed(nn.Module):
        def forward(self, images):
            return images * 2

    found = check_up(dense(Closed()), grouped(30))
    stated(found, "taps", "note", "name the taps")
    assert found.plan.detector == "energy"


# --- preprocessing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "state", "words"),
    [
        ({}, "ok", "mean"),
        ({"mean": (123.7, 116.8, 103.9), "std": (58.4, 57.1, 57.4)}, "note", "divide them by 255"),
        ({"mean": (123.7, 116.8, 103.9), "std": (1.0,) * 3}, "note", "between -3 and 3"),
        ({"mean": (0.0,), "std": (1.0,)}, "note", "pixels go in as they are"),
        ({"mean": (torch.nan,) * 3}, "problem", "not finite"),
    ],
)
def test_odd_means_and_deviations_are_noticed(settings, state, words):
    stated(check_up(dense(**settings), grouped(12)), "prepared", state, words)


@pytest.mark.parametrize(
    ("value", "odd", "state", "words"),
    [
        (0.0, 12, "problem", "12 of 12 images are nearly black"),
        (1.0, 12, "problem", "nearly white"),
        (0.5, 5, "note", "5 of 12 images are of one colour"),
    ],
)
def test_black_white_and_plain_images_are_noticed(value, odd, state, words):
    images = pictures(12)
    images[:odd] = value
    stated(check_up(dense(), TensorImages(images)), "pixels", state, words)


# --- the images ------------------------------------------------------------------------------------------------------


def saved(folder, images, name="{:03}.png"):
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype("uint8")
        Image.fromarray(pixels).save(folder / name.format(number))
    return folder


def test_broken_files_are_counted_and_named(tmp_path):
    folder = saved(tmp_path / "f", pictures(12))
    (folder / "x.png").write_text("no image")
    found = check_up(dense(), ImageFolder(folder))
    finding = stated(found, "files", "note", "12 images read, 1 skipped, such as x.png: not an image")
    assert [one["image"] for one in finding.data["skipped"]] == ["x.png"]


def test_a_folder_of_broken_files_is_a_problem_and_the_network_is_told_of_all_the_same(tmp_path):
    (tmp_path / "x.png").write_text("no image")
    found = check_up(dense(), ImageFolder(tmp_path))
    stated(found, "files", "problem", "None of the 1 images")
    assert [finding.name for finding in found.findings] == ["versions", "device", "mode", "files"]
    assert found.plan is None


def test_a_source_that_breaks_off_is_a_problem_and_what_came_counts():
    class BreaksOff:
        def __len__(self):
            return 50

        def batches(self, size):
            yield from grouped(12).batches(size)
            raise OSError("the disk\nwent away")

    found = check_up(dense(), BreaksOff())
    stated(found, "files", "problem", "after 12 images reading ended: the disk went away")
    stated(found, "output", "ok")


@pytest.mark.usefixtures("unchecked_shapes")
def test_pixels_that_no_camera_delivers_are_a_problem():
    class Hot:
        def __len__(self):
            return 2

        def batches(self, size):
            yield Batch(pictures(1), ("a",), ("all",))
            yield Batch(pictures(1) * 255, ("b",), ("all",))

    stated(check_up(dense(), Hot()), "files", "problem", "after 1 images reading ended: Images must be in [0, 1]")


def test_several_sizes_are_noted_and_the_commonest_is_planned_for(tmp_path):
    folder = saved(tmp_path / "f", pictures(20))
    saved(folder, pictures(3, (20, 20)), "odd{}.png")
    found = check_up(dense(), ImageFolder(folder))
    stated(found, "sizes", "note", "2 sizes; 20 images are 16 x 24", "--resize 16x24")
    assert found.plan.size == (16, 24)


@pytest.mark.parametrize(
    ("count", "state", "words"),
    [
        (1, "problem", "1 images support a false-alarm rate of 0.5"),
        (9, "problem", "give 99 or more"),
        (10, "note", "ask for 0.1 or more, or give 99 images"),
        (19, "note", "ask for 0.05 or more"),
        (98, "note", "ask for 0.02 or more"),
        (99, "ok", "99 images support a false-alarm rate of 0.01 at the lowest"),
    ],
)
def test_the_number_of_images_is_weighed_by_the_rate_it_supports(count, state, words):
    found = check_up(dense(), grouped(count, min(count, 4)))
    finding = stated(found, "amount", state, words)
    assert finding.data["lowest_false_alarm_rate"] == 1 / (count + 1)
    assert (found.plan is None) == (state == "problem")


def test_one_group_is_noted_with_what_to_do():
    found = check_up(dense(), TensorImages(pictures(20)))
    stated(found, "groups", "note", "all images are of one group (all 20)", "--group-by")
    stated(check_up(dense(), grouped(20, 4)), "groups", "ok", "4 groups: g0 5, g1 5")


def test_copies_are_noticed():
    images = pictures(40)
    images[7] = images[3]
    finding = stated(
        check_up(dense(), TensorImages(images)), "likeness", "note", "2 of 40 are nearly the same as another"
    )
    assert finding.data["pairs"] == [["3", "7"], ["7", "3"]]
    images[20:] = images[:20] + 0.002 * torch.rand(20, 3, *SIZE)
    found = check_up(dense(), TensorImages(images.clamp(0, 1)))
    stated(found, "likeness", "problem", "keep one of each")


def test_neighbours_that_are_alike_count_for_less():
    steps = F.interpolate(pictures(15).flatten(1).T[None], 120, mode="linear")[0].T.view(120, 3, *SIZE)
    finding = stated(check_up(dense(), TensorImages(steps)), "likeness", "note", "neighbours stay alike for about")
    assert finding.data["block_length"] > 2


def test_only_so_many_images_are_shown_to_the_network_and_of_every_group(monkeypatch):
    monkeypatch.setattr(checkup, "MOST_IMAGES", 20)

    class Recordings:
        groups = {f"g{i}": 12 for i in range(5)}  # noqa: RUF012

        def __len__(self):
            return 60

        def batches(self, size):
            yield from grouped(60, 5).batches(size)

    source = Recordings()
    sample = checkup.Sample(source, None, None)
    assert sample.shown_names == tuple(f"{12 * group + i}.png" for group in range(5) for i in range(4))
    assert len(sample.names) == 60
    monkeypatch.setattr(checkup, "MOST_PIXELS", 3 * SIZE[0] * SIZE[1])
    assert len(checkup.Sample(source, None, None).shown_names) == 3


# --- labels ----------------------------------------------------------------------------------------------------------


def predicted(backbone, images):
    with torch.no_grad():
        return backbone(images).max(1).indices


def test_right_labels_give_full_marks_and_wrong_ones_a_problem():
    backbone = dense()
    images = pictures(12)
    right = predicted(backbone, images)
    found = check_up(backbone, TensorImages(images, labels=right, classes=CLASSES))
    finding = stated(found, "accuracy", "ok", "mean IoU 100.0 %, 100.0 % of pixels right, on 12 images")
    assert finding.data["miou"] == 1
    wrong = check_up(backbone, TensorImages(images, labels=(right + 1) % 3, classes=CLASSES))
    stated(wrong, "accuracy", "problem", "always saying the commonest class is as good")


def test_labels_are_translated_by_the_names_of_their_classes():
    backbone = dense()
    images = pictures(12)
    turned = CLASSES[::-1]
    labels = 2 - predicted(backbone, images)
    finding = check_up(backbone, TensorImages(images, labels=labels, classes=turned)).finding("accuracy")
    assert finding.data["accuracy"] == 1
    unknown = check_up(backbone, TensorImages(images, labels=labels, classes=("a", "b", "c")))
    stated(unknown, "accuracy", "problem", "classes that the network has not", "--classes")


def test_a_classifier_has_an_accuracy():
    head = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in head.parameters():
            nn.init.normal_(parameter, std=2)
    backbone = Backbone(head, Classification(CLASSES), mean=(0.5,) * 3, std=(0.25,) * 3)
    images = pictures(40)
    right = predicted(backbone, images)
    assert len(right.unique()) > 1
    spoilt = right.clone()
    spoilt[:4] = (right[:4] + 1) % 3
    finding = check_up(backbone, TensorImages(images, labels=spoilt, classes=CLASSES)).finding("accuracy")
    assert finding.data["accuracy"] == 0.9
    assert finding.found == "90.0 % of 40 images right"


def test_missing_label_files_are_told():
    backbone = dense()
    images = pictures(12)
    right = dict(zip(map(str, range(12)), predicted(backbone, images), strict=True))

    def some(name):
        if name == "5":
            raise FileNotFoundError("No labels for '5'")
        return right[name]

    def none(name):
        raise FileNotFoundError(f"No labels for '{name}'")

    stated(check_up(backbone, TensorImages(images), labels=some), "accuracy", "note", "1 without labels: No labels for")
    stated(
        check_up(backbone, TensorImages(images), labels=none), "accuracy", "problem", "No labels for '0'", "--labels"
    )
