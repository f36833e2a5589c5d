"""A detector's text says its name and its settings, or is refused with what was meant."""

import pytest
import torch
from torch import nn

from inlier.anatomy import Anatomy
from inlier.backbones.base import Backbone, Segmentation
from inlier.detectors.max_softmax import MaxSoftmax
from inlier.detectors.spec import DetectorSpec


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        ("daain", "daain", {}),
        (" daain() ", "daain", {}),
        ('daain(head="euclidean", blocks=8)', "daain", {"head": "euclidean", "blocks": 8}),
        ("mahalanobis(grid=(2, 1), statistics=['mean', 'std'])", "mahalanobis",
         {"grid": (2, 1), "statistics": ["mean", "std"]}),
        ("daain(distance=1.5e1, seed=-1)", "daain", {"distance": 15.0, "seed": -1}),
    ],
)  # fmt: skip
def test_text_becomes_name_and_settings(text, name, settings):
    assert DetectorSpec.parse(text) == DetectorSpec(name, settings)


@pytest.mark.parametrize(
    "text",
    [
        "", "(", "daain(", "daain(8)", "daain(8, blocks=2)", "daain(blocks=4 + 4)", "daain(blocks=n)", "daain(*x)",
        "daain(**x)", "3", "'daain'", "daain.head", "inlier.daain(blocks=8)", "daain(blocks=print(1))", "daain; energy",
        "daain, energy", "daain(blocks=8)(bins=3)", "x := 3", "da\0in", "daain(blocks=8, blocks=4)",
    ],
)  # fmt: skip
def test_what_is_no_name_with_settings_is_refused_with_the_form(text):
    with pytest.raises(ValueError, match=r"written as name or name\(setting=value\), values numbers or quoted text"):
        DetectorSpec.parse(text)


def test_a_mistyped_name_is_answered_with_the_nearest():
    with pytest.raises(LookupError, match=r"No detector named 'mahalonobis'\. Did you mean 'mahalanobis'\?"):
        DetectorSpec.parse("mahalonobis(grid=(1, 1))")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("daain(block=8)", r"Detector 'daain' has no setting 'block'\. Did you mean 'blocks'\?"),
        ("mahalanobis(zzz=1)", r"has no setting 'zzz'\. There are: grid, normalise, statistics, taps\."),
        ("entropy(zzz=1)", r"Detector 'entropy' has no setting 'zzz'\. It has none\."),
        ("entropy(anatomy=1)", r"has no setting 'anatomy'\. It has none\."),
    ],
)
def test_a_mistyped_setting_is_answered_with_the_nearest(text, answer):
    with pytest.raises(ValueError, match=answer):
        DetectorSpec.parse(text)


def test_settings_reach_the_detector():
    network = nn.Conv2d(3, 4, 1)
    anatomy = Anatomy.of(Backbone(network, Segmentation("abcd")), (8, 8))
    detector = DetectorSpec.parse("max_softmax(reduce='max')").build(anatomy)
    assert isinstance(detector, MaxSoftmax)
    assert detector.reduce == "max"
    with pytest.raises(ValueError, match="reduce must be"):
        DetectorSpec.parse("max_softmax(reduce='median')").build(anatomy)
    assert torch.equal(DetectorSpec("entropy").build(anatomy).each(torch.zeros(1, 1)), torch.zeros(1))
