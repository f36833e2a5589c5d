"""Metrics on cases small enough to work out by hand."""

import math

import numpy as np
import pytest
import torch

from inlier.calibration import Calibration
from inlier.evaluation.metrics import (
    ConfusionMatrix,
    aupr,
    auroc,
    changed_iou,
    changed_share,
    fpr_at_tpr,
    image_iou,
    precision_recall_curve,
    rate_interval,
    rates_at,
    roc_curve,
)


def test_auroc_is_the_share_of_pairs_in_order_with_ties_one_half():
    assert auroc([1.0, 2.0], [2.0, 3.0]) == (1 + 1 + 0.5 + 1) / 4
    assert auroc([0.0], [1.0]) == 1
    assert auroc([1.0], [0.0]) == 0
    assert auroc([1.0] * 7, [1.0] * 3) == 0.5


def test_aupr_of_equal_scores_is_the_share_of_positives():
    assert aupr([1.0] * 3, [1.0]) == 0.25
    assert aupr([1.0] * 3, [1.0], positive="clean") == 0.75
    assert aupr([0.0, 2.0], [1.0, 3.0]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_fpr_at_tpr_takes_the_strictest_threshold_that_finds_enough():
    clean, anomalous = [0.0, 1.0, 2.0, 3.0], [1.5, 2.5, 3.5, 4.5]
    assert fpr_at_tpr(clean, anomalous, tpr=0.5) == 0
    assert fpr_at_tpr(clean, anomalous, tpr=0.75) == 0.25
    assert fpr_at_tpr(clean, anomalous, tpr=0.76) == 0.5
    assert fpr_at_tpr(clean, anomalous, tpr=1.0, positive="clean") == 0.75 - 0.25
    assert fpr_at_tpr([1.0], [1.0]) == 1  # a tie is found together with its twin


def test_fpr_at_tpr_is_not_misled_by_rounding():
    anomalous = np.arange(100.0)
    assert 0.07 * 100 > 7
    assert fpr_at_tpr([92.5], anomalous, tpr=0.07) == 0  # seven are enough: those from 93


def test_score_metrics_take_tensors_arrays_and_lists():
    clean, anomalous = torch.tensor([1.0, 2.0], requires_grad=True), np.array([2.0, 3.0], dtype=np.float32)
    for metric in (auroc, aupr, fpr_at_tpr):
        value = metric(clean, anomalous)
        assert type(value) is float
        assert value == metric([1.0, 2.0], [2.0, 3.0])


def test_a_score_at_the_threshold_is_not_flagged():
    assert rates_at(2.0, [1.0, 2.0, 3.0, 4.0], [2.0, 2.1]) == (0.5, 0.5)
    assert rates_at(-math.inf, [1.0], [2.0]) == (1, 1)
    assert rates_at(math.inf, [1.0], [math.inf]) == (0, 0)
    with pytest.raises(ValueError, match="threshold is nan"):
        rates_at(math.nan, [1.0], [1.0])


def test_rates_at_the_threshold_of_a_calibration_are_those_of_its_flags():
    clean, anomalous = (
        torch.randn(99, generator=torch.Generator().manual_seed(seed)).round(decimals=1) for seed in (0, 1)
    )
    calibration = Calibration().fit(clean)
    rates = rates_at(calibration.threshold(0.1), clean, anomalous)
    assert rates.fpr == calibration.flagged(clean, 0.1).double().mean()
    assert rates.tpr == calibration.flagged(anomalous, 0.1).double().mean() > 0


def test_points_of_a_roc_curve_by_hand():
    fpr, tpr, thresholds = roc_curve([0.0, 1.0], [1.0, 2.0])
    assert thresholds.tolist() == [2, 1, 0, -math.inf]
    assert tpr.tolist() == [0, 0.5, 1, 1]
    assert fpr.tolist() == [0, 0, 0.5, 1]
    assert [points.tolist() for points in roc_curve([3.0] * 4, [3.0])] == [[0, 1], [0, 1], [3, -math.inf]]


def test_points_of_a_precision_recall_curve_by_hand():
    precision, recall, thresholds = precision_recall_curve([0.0, 1.0], [1.0, 2.0])
    assert thresholds.tolist() == [2, 1, 0]
    assert recall.tolist() == [0.5, 1, 1]
    assert precision.tolist() == [1, pytest.approx(2 / 3), 0.5]
    precision, recall, thresholds = precision_recall_curve([0.0, 1.0], [1.0, 2.0], positive="clean")
    assert thresholds.tolist() == [0, 1, 2]  # found is what scores at most as high
    assert recall.tolist() == [0.5, 1, 1]
    assert precision.tolist() == [1, pytest.approx(2 / 3), 0.5]


@pytest.mark.parametrize("metric", [auroc, aupr, fpr_at_tpr, roc_curve, precision_recall_curve])
def test_a_side_that_is_empty_or_has_nan_is_refused(metric):
    for sides in (([], [1.0]), ([1.0], []), ([math.nan], [1.0]), ([1.0], [math.nan])):
        with pytest.raises(ValueError, match=r"scores of shape \(n,\)|scores are nan"):
            metric(*sides)


@pytest.mark.parametrize("metric", [auroc, aupr, fpr_at_tpr])
def test_scores_that_have_no_order_are_refused(metric):
    with pytest.raises(ValueError, match="1 of 2 clean scores are nan"):
        metric([1.0, math.nan], [1.0])
    with pytest.raises(ValueError, match=r"anomalous scores of shape \(n,\)"):
        metric([1.0], [])
    assert metric([-math.inf], [math.inf]) == (0.0 if metric is fpr_at_tpr else 1.0)


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="tpr must be above 0"):
        fpr_at_tpr([1.0], [1.0], tpr=95)
    with pytest.raises(ValueError, match="'anomalous' or 'clean', not 'ood'"):
        aupr([1.0], [1.0], positive="ood")
    with pytest.raises(ValueError, match="hits=5 and count=4"):
        rate_interval(5, 4)
    with pytest.raises(ValueError, match="confidence"):
        rate_interval(1, 4, confidence=95)


def test_clopper_pearson_equals_its_closed_forms():
    low, high = rate_interval(0, 10)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 10))
    low, high = rate_interval(10, 10)
    assert low == pytest.approx(0.025 ** (1 / 10))
    assert high == 1
    assert rate_interval(0, 0) == (0, 1)


def test_clopper_pearson_holds_the_true_rate_as_often_as_it_says():
    hits = torch.arange(31)
    for rate in (0.01, 0.1, 0.37, 0.5):
        chance = torch.distributions.Binomial(30, torch.tensor(rate)).log_prob(hits.float()).exp()
        holds = torch.tensor([low <= rate <= high for low, high in (rate_interval(int(h), 30) for h in hits)])
        assert chance[holds].sum() >= 0.95


def matrix():
    result = ConfusionMatrix(4, void=3)
    labels = torch.tensor([[0, 0, 1, 1], [3, 3, 1, 0]])
    predicted = torch.tensor([[0, 1, 1, 3], [2, 0, 1, 0]])
    result.update(predicted, labels)
    return result


def test_void_labels_are_left_out_and_void_predictions_are_errors():
    result = matrix()
    assert result.counts.sum() == 6
    assert result.pixel_accuracy() == pytest.approx(4 / 6)
    iou = result.iou()
    assert iou[:2].tolist() == [2 / 3, 2 / 4]  # class 1: two hits, one called void, one of class 0 called 1
    assert iou[2:].isnan().all()  # never labelled: the prediction of 2 was on void; and void itself
    assert result.mean_iou() == pytest.approx((2 / 3 + 2 / 4) / 2)


def test_a_class_predicted_but_never_labelled_counts_as_zero():
    result = ConfusionMatrix(3)
    result.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert result.iou()[:2].tolist() == [0.5, 0]
    assert result.mean_iou() == 0.25


def test_void_may_lie_outside_the_classes():
    result = ConfusionMatrix(2, void=255)
    result.update(torch.tensor([0, 1, 1]), torch.tensor([0, 255, 1]))
    assert result.mean_iou() == 1
    assert result.counts.sum() == 2


def test_batches_add_up():
    halves, whole = ConfusionMatrix(5), ConfusionMatrix(5)
    generator = torch.Generator().manual_seed(0)
    predicted, labels = torch.randint(5, (2, 6, 4, 4), generator=generator)
    whole.update(predicted, labels)
    halves.update(predicted[:2], labels[:2])
    halves.update(predicted[2:], labels[2:])
    assert torch.equal(halves.counts, whole.counts)


def test_an_empty_matrix_has_no_mean():
    assert math.isnan(ConfusionMatrix(3).mean_iou())
    assert math.isnan(ConfusionMatrix(3).pixel_accuracy())


@pytest.mark.usefixtures("unchecked_shapes")
def test_labels_that_are_no_class_are_refused():
    with pytest.raises(ValueError, match="A label is 255; expected 0 to 2"):
        ConfusionMatrix(3).update(torch.tensor([0]), torch.tensor([255]))
    with pytest.raises(ValueError, match="A predicted class is 3"):
        ConfusionMatrix(3).update(torch.tensor([3]), torch.tensor([0]))
    with pytest.raises(ValueError, match="differ in shape"):
        ConfusionMatrix(3).update(torch.zeros(2).long(), torch.zeros(3).long())


def test_changed_share_looks_at_valid_pixels_only():
    a = torch.tensor([[[0, 1], [2, 3]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]])
    b = torch.tensor([[[0, 1], [0, 0]], [[0, 0], [0, 1]], [[0, 0], [0, 0]]])
    assert changed_share(a, b).tolist() == [0.5, 0.25, 1]
    valid = torch.tensor([[[True, True], [True, False]], [[True, True], [True, False]], [[False] * 2] * 2])
    share = changed_share(a, b, valid)
    assert share[:2].tolist() == [pytest.approx(1 / 3), 0]
    assert share[2].isnan()
    assert changed_share(torch.tensor([1, 2]), torch.tensor([1, 3])).tolist() == [0, 1]
    with pytest.raises(ValueError, match="must have one shape"):
        changed_share(a, b, valid[:1])


def test_changed_iou_is_one_minus_the_mean_over_the_classes_that_are_there():
    a = torch.tensor([[[0, 0], [0, 1]], [[2, 2], [2, 2]], [[0, 1], [2, 2]]])
    b = torch.tensor([[[0, 0], [0, 0]], [[2, 2], [2, 2]], [[1, 0], [2, 2]]])
    iou = image_iou(a, b, classes=4)
    assert iou[0, :2].tolist() == [3 / 4, 0]
    assert iou[0, 2:].isnan().all()  # not there, and so not counted
    assert changed_iou(a, b, classes=4).tolist() == pytest.approx([1 - 3 / 8, 0, 2 / 3])
    assert changed_share(a, b).tolist() == [1 / 4, 0, 1 / 2]  # a small object that vanishes weighs more in the IoU
    assert changed_iou(torch.tensor([1, 2]), torch.tensor([1, 3]), classes=4).tolist() == [0, 1]  # of classes of images


def test_changed_iou_looks_at_valid_pixels_only():
    a, b = torch.tensor([[[0, 255], [1, 1]]] * 2), torch.tensor([[[0, 1], [1, 0]]] * 2)
    valid = torch.tensor([[[True, False], [True, False]], [[False, False], [False, False]]])
    first, second = changed_iou(a, b, 2, valid).tolist()
    assert first == 0
    assert math.isnan(second)


def test_image_iou_of_a_batch_is_that_of_its_images_and_sums_up_to_the_confusion_matrix():
    predicted, labels = torch.randint(5, (2, 6, 7, 9), generator=torch.Generator().manual_seed(0))
    whole = image_iou(predicted, labels, 5)
    assert torch.equal(whole, torch.cat([image_iou(predicted[i : i + 1], labels[i : i + 1], 5) for i in range(6)]))
    matrix = ConfusionMatrix(5)
    matrix.update(predicted[2:3], labels[2:3])
    assert torch.equal(whole[2], matrix.iou())


@pytest.mark.usefixtures("unchecked_shapes")
def test_predictions_that_are_no_class_or_of_other_shapes_are_refused():
    a, b = torch.tensor([[[0, 255]]]), torch.tensor([[[0, 1]]])
    with pytest.raises(ValueError, match="Classes run from 0 to 255; expected 0 to 1"):
        image_iou(a, b, 2)
    with pytest.raises(ValueError, match="must have one shape"):
        changed_iou(a, b[:, :, :1], 2)
