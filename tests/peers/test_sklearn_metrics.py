"""The same numbers as scikit-learn, ties included."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from sklearn.metrics import average_precision_score, confusion_matrix, jaccard_score, recall_score, roc_auc_score

from inlier.evaluation.metrics import (
    ConfusionMatrix,
    aupr,
    auroc,
    changed_iou,
    fpr_at_tpr,
    image_iou,
    precision_recall_curve,
    rates_at,
    roc_curve,
)


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
    false, true, _ = sklearn_metrics.roc_curve(*labelled(scores, positive), drop_intermediate=False)
    assert fpr_at_tpr(*scores, tpr=tpr, positive=positive) == pytest.approx(false[true >= tpr].min(), abs=1e-12)


def test_roc_curve(scores):
    ours = roc_curve(*scores)
    false, true, _ = sklearn_metrics.roc_curve(*labelled(scores, "anomalous"), drop_intermediate=False)
    np.testing.assert_allclose(ours.fpr, false, atol=1e-12)
    np.testing.assert_allclose(ours.tpr, true, atol=1e-12)
    assert sklearn_metrics.auc(ours.fpr, ours.tpr) == pytest.approx(auroc(*scores), abs=1e-12)


@pytest.mark.parametrize("positive", ["anomalous", "clean"])
def test_precision_recall_curve(scores, positive):
    ours = precision_recall_curve(*scores, positive=positive)
    precision, recall, thresholds = sklearn_metrics.precision_recall_curve(*labelled(scores, positive))
    np.testing.assert_allclose(ours.precision, precision[-2::-1], atol=1e-12)
    np.testing.assert_allclose(ours.recall, recall[-2::-1], atol=1e-12)
    np.testing.assert_array_equal(ours.thresholds, thresholds[::-1] if positive == "anomalous" else -thresholds[::-1])


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1.0, 2.5, 99.0])
def test_rates_at(scores, threshold):
    truth, both = labelled(scores, "anomalous")
    rates = rates_at(threshold, *scores)
    assert rates.tpr == pytest.approx(recall_score(truth, both > threshold), abs=1e-12)
    assert rates.fpr == pytest.approx(1 - recall_score(truth, both > threshold, pos_label=0), abs=1e-12)


def test_iou_of_each_image():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(6, (2, 5, 12, 9), generator=generator)
    a[0], b[0] = a[0] % 3, b[0] % 2  # classes that one or both maps lack
    valid = torch.rand(5, 12, 9, generator=generator) < 0.8
    for image, iou in enumerate(image_iou(a, b, 6, valid)):
        pair = a[image][valid[image]].numpy(), b[image][valid[image]].numpy()
        there = np.union1d(*pair)
        np.testing.assert_allclose(iou[there], jaccard_score(*pair, labels=there, average=None), atol=1e-12)
        assert iou.isnan().sum() == 6 - len(there)
        expected = 1 - jaccard_score(*pair, average="macro")
        assert changed_iou(a, b, 6, valid)[image].item() == pytest.approx(expected, abs=1e-12)


def test_confusion_and_iou():
    predicted, labels = torch.randint(6, (2, 4, 20, 20), generator=torch.Generator().manual_seed(0))
    ours = ConfusionMatrix(6, void=5)
    ours.update(predicted, labels)
    valid = labels != 5
    pair = labels[valid].numpy(), predicted[valid].numpy()
    np.testing.assert_array_equal(ours.counts.numpy(), confusion_matrix(*pair, labels=range(6)))
    np.testing.assert_allclose(ours.iou()[:5], jaccard_score(*pair, labels=range(5), average=None), atol=1e-12)
