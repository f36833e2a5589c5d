"""Images on their way in: what no camera delivers is refused with a message that says what to do."""

import pytest
import torch

from inlier.images import Batch, LabelledSource, TensorImages, as_source, check_images

GOOD = torch.linspace(0, 1, 2 * 3 * 4 * 5).view(2, 3, 4, 5)


@pytest.mark.parametrize("images", [GOOD, GOOD.double(), GOOD.half(), GOOD[:, :1], GOOD.clone().requires_grad_()])
def test_images_in_the_unit_interval_pass(images):
    check_images(images)


def spoilt(value):
    images = GOOD.clone()
    images[1, 0, 0, 0] = value
    return images


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ((255 * GOOD).byte(), TypeError, r"in \[0, 1\], not torch.uint8; divide 8-bit pixels by 255"),
        ([[0.5]], TypeError, "not list"),
        (GOOD[0], ValueError, r"must be \(n, c, h, w\) with none of them 0, not \(3, 4, 5\)"),
        (GOOD[:0], ValueError, r"not \(0, 3, 4, 5\)"),
        (GOOD[..., :0], ValueError, r"not \(2, 3, 4, 0\)"),
        (255 * GOOD, ValueError, r"these are in \[0, 255\]; 8-bit pixels go over 255"),
        (2 * GOOD - 1, ValueError, r"these are in \[-1, 1\]"),
        (spoilt(1.001), ValueError, r"\[0, 1.001\]"),
        (spoilt(torch.nan), ValueError, "1 of 2 images have NaN or infinite pixels"),
        (spoilt(torch.inf), ValueError, "1 of 2 images have NaN or infinite pixels"),
    ],
)
def test_what_no_camera_delivers_is_refused(images, error, message):
    with pytest.raises(error, match=message):
        check_images(images)


def test_another_number_of_channels_is_refused():
    check_images(GOOD, channels=3)
    with pytest.raises(ValueError, match="expects images of 1 channels, and 3 came"):
        check_images(GOOD, channels=1)


def test_a_source_yields_everything_in_order_as_often_as_asked():
    source = TensorImages(GOOD.repeat(3, 1, 1, 1)[:5], names="abcde", groups="xxyyy")
    for _ in range(2):
        batches = list(source.batches(2))
        assert [len(batch.images) for batch in batches] == [2, 2, 1]
        assert torch.equal(torch.cat([batch.images for batch in batches]), source.images)
        assert [name for batch in batches for name in batch.names] == list("abcde")
        assert [group for batch in batches for group in batch.groups] == list("xxyyy")
    assert len(source) == 5


def test_by_default_names_are_numbers_and_there_is_one_group():
    (batch,) = TensorImages(GOOD).batches(9)
    assert isinstance(batch, Batch)
    assert (batch.names, batch.groups) == (("0", "1"), ("all", "all"))


def test_a_source_refuses_bad_images_and_uneven_names():
    with pytest.raises(ValueError, match=r"in \[0, 255\]"):
        TensorImages(255 * GOOD)
    with pytest.raises(ValueError, match="2 images came with 1 names and 3 groups"):
        TensorImages(GOOD, names="a", groups="xyz")


def test_a_tensor_becomes_a_source_and_a_source_stays_itself():
    source = TensorImages(GOOD)
    assert as_source(source) is source
    assert as_source(GOOD).images is GOOD


def test_labels_go_with_their_images():
    labels = torch.tensor([1, 0])
    source = TensorImages(GOOD, labels=labels, classes=["road", "car"])
    assert isinstance(source, LabelledSource)
    assert source.classes == ("road", "car")
    assert [batch.labels.tolist() for batch in source.batches(1)] == [[1], [0]]
    maps = labels[:, None, None].expand(2, 4, 5)
    (batch,) = TensorImages(GOOD, labels=maps, classes=["road", "car"]).batches(2)
    assert torch.equal(batch.labels, maps)
    (batch,) = TensorImages(GOOD).batches(2)
    assert batch.labels is None
    assert TensorImages(GOOD).classes == ()


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (torch.tensor([0, 1, 1]), "ab", r"\(3,\) came for \(2, 3, 4, 5\)"),
        (torch.zeros(2, 5, 4, dtype=torch.long), "ab", r"\(2, 5, 4\) came"),
        (torch.tensor([0, 2]), "ab", "0 to 2, and there are 2 classes: expected 0 to 1"),
        (torch.tensor([-1, 1]), "ab", "Labels are -1 to 1"),
        (torch.tensor([0, 0]), "", "there are 0 classes"),
        (None, "ab", "2 classes came without labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, classes, message):
    with pytest.raises(ValueError, match=message):
        TensorImages(GOOD, labels=labels, classes=classes)


def test_a_batch_of_none_is_refused():
    with pytest.raises(ValueError, match="at least 1 image, not 0"):
        next(TensorImages(GOOD).batches(0))
