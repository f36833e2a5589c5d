"""Drawn textures: the same ones every time, of every kind, no two alike, and refused where no number is given."""

import itertools
import json

import pytest
import torch
from typer.testing import CliRunner

from inlier.cli.main import app
from inlier.datasets.load import open_images
from inlier.datasets.textures import KINDS, SIZE, Textures
from inlier.observation import Readings


def all_of(source, size=7):
    return torch.cat([batch.images for batch in source.batches(size)])


def test_every_kind_comes_in_turn_with_its_name_as_class_and_group():
    source = open_images("textures:23", size=(24, 32))
    batches = list(source.batches(9))
    groups = [group for batch in batches for group in batch.groups]
    labels = torch.cat([batch.labels for batch in batches]).tolist()
    assert groups == list(itertools.islice(itertools.cycle(KINDS), 23))
    assert [source.classes[label] for label in labels] == groups
    assert source.names[12] == "weave_000012"
    assert source.groups["stripes"] == 3


def test_they_are_images_of_the_size_asked_for_and_the_same_in_any_batches():
    images = all_of(Textures(20, size=(40, 56)))
    assert images.shape == (20, 3, 40, 56)
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(images, all_of(Textures(20, size=(40, 56)), size=20))
    assert torch.equal(images[:11], all_of(Textures(11, size=(40, 56))))
    assert next(Textures(1).batches(1)).images.shape[-2:] == SIZE
    assert all_of(Textures(2, size=(24, 32), channels=1)).shape == (2, 1, 24, 32)
    assert all(batch.labels is None for batch in Textures(3, size=(24, 32), labelled=False).batches(3))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_a_pattern_and_no_two_of_it_are_alike(kind):
    place = list(KINDS).index(kind)
    source = Textures(30, size=(96, 128), channels=1)
    mine = all_of(source)[place :: len(KINDS)]
    assert (mine.flatten(1).std(1) > 0.01).all()
    for one, other in itertools.combinations(mine, 2):
        assert (one - other).abs().mean() > 0.02


@pytest.mark.parametrize("text", ["textures:many", "textures:-3", "textures:0", "textures:2000000", "textures:1.5"])
def test_what_is_no_number_of_textures_is_refused(text):
    with pytest.raises(ValueError, match="Textures are drawn"):
        open_images(text)


def test_a_monitor_is_shown_them_like_any_images(tmp_path):
    readings = tmp_path / "t.readings"
    told = CliRunner().invoke(app, [
        "read", "--backbone", "street", "--images", "textures:4", "--size", "48x64", "--out", str(readings), "--json"
    ])  # fmt: skip
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["images"] == len(Readings.load(readings)) == 4
