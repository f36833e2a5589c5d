"""Readings are the observations of a data set without images and network, and say so when these are asked for."""

import pytest
import torch

from inlier.backbones.base import Backbone, Segmentation
from inlier.errors import Mismatch
from inlier.observation import Look, Readings, Recorded


def made(n=5, labels=None):
    values = {"sampled": torch.arange(2.0 * n).view(n, 2), "map": torch.arange(1.0 * n).view(n, 1, 1, 1)}
    return Readings(values, tuple("abcdefgh"[:n]), tuple("xxyyyzzz"[:n]), labels)


def test_a_subset_has_the_values_names_groups_and_labels_of_its_images():
    part = made(labels=torch.arange(5)).subset(torch.tensor([3, 0]))
    assert part.values["sampled"].tolist() == [[6, 7], [0, 1]]
    assert (part.names, part.groups, part.labels.tolist()) == (("d", "a"), ("y", "x"), [3, 0])
    assert len(part) == 2


def test_parts_put_together_are_the_whole():
    whole = made(labels=torch.arange(5))
    again = Readings.concatenate([whole.subset(torch.arange(2)), whole.subset(torch.arange(2, 5))])
    assert all(torch.equal(again.values[name], value) for name, value in whole.values.items())
    assert (again.names, again.groups, again.labels.tolist()) == (whole.names, whole.groups, [0, 1, 2, 3, 4])


def test_nothing_cannot_be_put_together():
    with pytest.raises(ValueError, match="No readings to put together"):
        Readings.concatenate([])


def test_labels_of_some_parts_alone_are_refused():
    with pytest.raises(ValueError, match=r"10 names, 10 groups and readings of lengths .*'labels': 5"):
        Readings.concatenate([made(labels=torch.arange(5)), made()])


@pytest.mark.parametrize(
    ("names", "groups", "labels"),
    [("abcd", "xxyyy", None), ("abcde", "xxyy", None), ("abcde", "xxyyy", torch.arange(4))],
)
def test_uneven_parts_are_refused_with_their_lengths(names, groups, labels):
    with pytest.raises(
        ValueError, match=rf"{len(names)} names, {len(groups)} groups and readings of lengths .*'sampled': 5"
    ):
        Readings({"sampled": torch.zeros(5, 2)}, tuple(names), tuple(groups), labels)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_observations_are_the_readings_in_batches_as_often_as_asked(batch_size):
    readings = made()
    for _ in range(2):
        batches = list(readings.observations(batch_size))
        assert len(batches) == -(-5 // batch_size)
        for name, value in readings.values.items():
            assert torch.equal(torch.cat([batch.readings[name] for batch in batches]), value)
        assert all(batch.passes == 0 for batch in batches)


def test_recorded_logits_are_the_output():
    values = torch.rand(2, 3)
    assert Recorded({"logits": values}).output is values


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda seen: seen.output, "recorded without logits; read again with the reader readers.logits"),
        (lambda seen: seen.images, "recorded without their images"),
        (lambda seen: seen.look(Look()), "Look needs the network"),
        (lambda seen: seen.gradient(lambda o: o.output), "A gradient needs the network"),
    ],
)
def test_what_was_not_recorded_is_said_not_to_be_there(ask, message):
    with pytest.raises(Mismatch, match=message):
        ask(Recorded({"sampled": torch.rand(2, 3)}))


def test_the_plain_look_changes_nothing():
    images, backbone = torch.rand(1, 3, 4, 4), Backbone(torch.nn.Identity(), Segmentation(("r", "g", "b")))
    assert Look().images(images, None) is images
    with Look().network(backbone, None):
        assert torch.equal(backbone(images), images)
