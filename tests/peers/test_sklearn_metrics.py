"""The same numbers as scikit-learn, ties included."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, confusion_matrix, jaccard_score, roc_auc_score, roc_curve

from inlier.evaluation.metrics import ConfusionMatrix, aupr, auroc, fpr_at_tpr


@pytest.fixture(params=[(500, 300, None), (7, 2000, 1), (300, 300, 0), (1, 1, 0), (60, 5, 2)], ids=str)
def scores(request):
    clean, anomalous, decimals = request.param
    random = np.random.default_rng(0)
    drawn = random.normal(size=clean), random.normal(1, 2, size=anomalous)
    return drawn if decimals is None else tuple(values.round(decimals) for values in drawn)


def labelled(scores, positive):
    clean, anomalous = scores
    truth = np.r_[np.zeros(len(clean)), np.ones(len(anomalous))]
    both = np.r_[clean, anomalous]
    return (truth, both) if positive == "anomalous" else (1 - truth, -both)


def test_auroc(scores):
    assert auroc(*scores) == pytest.approx(roc_auc_score(*labelled(scores, "anomalous")), abs=1e-12)


@pytest.mark.parametrize("positive", ["anomalous", "clean"])
def test_aupr(scores, positive):
    expected = average_precision_score(*labelled(scores, positive))
    assert aupr(*scores, positive=positive) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("positive", ["anomalous", "clean"])
@pytest.mark.parametrize("tpr", [0.05, 0.5, 0.95, 0.99, 1.0])
def test_fpr_at_tpr(scores, positive, tpr):
    false, true, _ = roc_curve(*labelled(scores, positive), drop_intermediate=False)
    assert fpr_at_tpr(*scores, tpr=tpr, positive=positive) == pytest.approx(false[true >= tpr].min(), abs=1e-12)


def test_confusion_and_iou():
    predicted, labels = torch.randint(6, (2, 4, 20, 20), generator=torch.Generator().manual_seed(0))
    ours = ConfusionMatrix(6, void=5)
    ours.update(predicted, labels)
    valid = labels != 5
    pair = labels[valid].numpy(), predicted[valid].numpy()
    np.testing.assert_array_equal(ours.counts.numpy(), confusion_matrix(*pair, labels=range(6)))
    np.testing.assert_allclose(ours.iou()[:5], jaccard_score(*pair, labels=range(5), average=None), atol=1e-12)
