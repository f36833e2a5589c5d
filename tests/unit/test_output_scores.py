"""Scores of the output equal their formulas, for classifiers and for segmentation networks."""

import math

import pytest
import torch

from inlier.detectors.energy import Energy
from inlier.detectors.entropy import Entropy
from inlier.detectors.max_logit import MaxLogit
from inlier.detectors.max_softmax import MaxSoftmax
from inlier.observation import Readings, Recorded

LOGITS = [[0.0, math.log(3.0), math.log(4.0)], [2.0, 2.0, 2.0]]
"""Softmax: (1/8, 3/8, 4/8) and (1/3, 1/3, 1/3)."""
H = -(1 / 8 * math.log(1 / 8) + 3 / 8 * math.log(3 / 8) + 1 / 2 * math.log(1 / 2))
EXPECTED = {
    MaxSoftmax: [1 / 2, 2 / 3],
    MaxLogit: [-math.log(4), -2.0],
    Entropy: [H, math.log(3)],
    Energy: [-math.log(8), -2 - math.log(3)],
}


def seen(logits):
    return Recorded({"logits": logits})


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_classifiers_score_equals_its_formula(kind):
    score = kind()(seen(torch.tensor(LOGITS)))
    torch.testing.assert_close(score, torch.tensor(EXPECTED[kind]))
    assert kind().maps(seen(torch.tensor(LOGITS))) is None


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_segmentations_score_is_the_mean_of_its_map(kind):
    pixels = torch.tensor(LOGITS).T.view(1, 3, 2, 1).repeat(1, 1, 1, 2)  # first row of pixels, second row of pixels
    first, second = EXPECTED[kind]
    torch.testing.assert_close(kind()(seen(pixels)), torch.tensor([(first + second) / 2]))
    torch.testing.assert_close(kind().maps(seen(pixels)), torch.tensor([[[first] * 2, [second] * 2]]))


def test_the_papers_max_softmax_looks_at_the_most_confident_pixel_alone():
    pixels = torch.tensor(LOGITS).T.view(1, 3, 2, 1)
    assert MaxSoftmax("max")(seen(pixels)).item() == pytest.approx(1 / 2)
    assert MaxSoftmax("mean")(seen(pixels)).item() == pytest.approx(7 / 12)
    # A classifier has one prediction an image, so that both variants are the same.
    logits = torch.tensor(LOGITS)
    assert torch.equal(MaxSoftmax("max")(seen(logits)), MaxSoftmax("mean")(seen(logits)))
    with pytest.raises(ValueError, match="reduce must be 'mean' or 'max', not 'min'"):
        MaxSoftmax("min")


@pytest.mark.parametrize("kind", EXPECTED)
def test_logits_of_any_size_make_finite_scores(kind):
    assert kind()(seen(torch.tensor([[1e4, -1e4, 0.0], [-3e4, -3e4, -3e4]]))).isfinite().all()


@pytest.mark.parametrize("kind", EXPECTED)
def test_an_unsure_prediction_scores_higher(kind):
    sure, unsure = torch.tensor([[9.0, 0.0, 0.0], [1.0, 0.0, 0.0]])[:, None]
    assert kind()(seen(sure)) < kind()(seen(unsure))


@pytest.mark.parametrize("kind", EXPECTED)
def test_there_is_nothing_to_learn(kind):
    detector = kind()
    assert not detector.learns
    assert detector.requires == ()
    assert detector.fit(Readings({}, (), ())) is detector
