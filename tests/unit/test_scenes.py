"""Drawn street scenes: the same from the same seed, truthful in their labels, and different from world to world."""

from itertools import combinations

import numpy as np
import pytest
import torch

from inlier.datasets.scenes.classes import CLASSES
from inlier.datasets.scenes.scene import draw, draw_many
from inlier.datasets.scenes.view import View
from inlier.datasets.scenes.worlds import TRAINING_WORLDS, UNSEEN_WORLDS, WORLDS

SUMMER = WORLDS["summer"]


@pytest.fixture(scope="module")
def scenes():
    return {name: [draw(world, seed) for seed in range(8)] for name, world in WORLDS.items()}


def test_a_seed_draws_the_same_scene_again_whatever_was_drawn_in_between(scenes):
    for name, drawn in scenes.items():
        again = draw(WORLDS[name], 5)
        np.testing.assert_array_equal(again.image, drawn[5].image)
        np.testing.assert_array_equal(again.labels, drawn[5].labels)


def test_other_seeds_draw_other_streets(scenes):
    for first, second in combinations(scenes["summer"], 2):
        assert (first.labels != second.labels).mean() > 0.05


def test_the_same_seed_is_another_street_in_another_world(scenes):
    for first, second in combinations(WORLDS, 2):
        assert (scenes[first][0].labels != scenes[second][0].labels).mean() > 0.05


@pytest.mark.parametrize("size", [(160, 320), (96, 128), (65, 33), (256, 512)])
def test_image_and_labels_have_the_size_asked_for(size):
    scene = draw(SUMMER, 3, size)
    assert scene.image.shape == (*size, 3)
    assert scene.labels.shape == size
    assert scene.image.dtype == scene.labels.dtype == np.uint8


def test_every_class_occurs_in_every_world(scenes):
    for name, drawn in scenes.items():
        found = np.unique(np.stack([scene.labels for scene in drawn]))
        assert found.tolist() == list(range(len(CLASSES))), name


def test_sky_is_above_buildings_and_these_above_the_road(scenes):
    rows = np.arange(160)[:, None]
    for drawn in scenes.values():
        labels = np.stack([scene.labels for scene in drawn])
        sky, building, road = (np.broadcast_to(rows, labels.shape)[labels == k].mean() for k in (0, 1, 2))
        assert sky < building < road


def test_the_labels_lie_on_what_they_name(scenes):
    marking, road = CLASSES.index("lane marking"), CLASSES.index("road")
    for name, drawn in scenes.items():
        brightness = {
            label: np.mean([scene.image[scene.labels == label].mean() for scene in drawn if label in scene.labels])
            for label in (marking, road)
        }
        assert brightness[marking] > brightness[road] + 5, name


def test_worlds_differ_in_colour(scenes):
    means = {name: np.stack([scene.image for scene in drawn]).mean((0, 1, 2)) for name, drawn in scenes.items()}
    for first, second in combinations(means, 2):
        assert np.abs(means[first] - means[second]).max() > 8, (first, second)


def test_no_world_is_both_trained_on_and_unseen():
    assert sorted(TRAINING_WORLDS + UNSEEN_WORLDS) == sorted(WORLDS)


def test_many_scenes_are_the_scenes_one_by_one():
    images, labels = draw_many(SUMMER, 2, seed=40, size=(64, 96))
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    for index in range(2):
        scene = draw(SUMMER, 40 + index, (64, 96))
        np.testing.assert_array_equal((images[index].permute(1, 2, 0) * 255).round().numpy(), scene.image)
        np.testing.assert_array_equal(labels[index].numpy(), scene.labels)


def test_the_ground_behind_a_pixel_is_the_point_that_was_projected_there():
    view = View(SUMMER.camera, (160, 320), np.random.default_rng(1))
    right, below = view.planes()
    for x, z in ((-3.0, 9.0), (0.0, 12.0), (5.0, 20.0)):
        ((u, v),) = view.project([(x, 0.0, z)])
        column, row = int(u // 2), int(v // 2)  # the canvas is drawn at twice the image's size
        depth = view.focal / 2 * view.height / below[row, column]
        assert depth == pytest.approx(z, rel=0.06)
        assert right[column] * depth * 2 / view.focal == pytest.approx(x, abs=0.15)


def test_drawing_leaves_the_global_random_state_alone():
    before = np.random.get_state()[1].copy()
    draw(SUMMER, 0, (64, 64))
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="at least 32 x 32 pixels, not \\(16, 320\\)"):
        draw(SUMMER, 0, (16, 320))
    with pytest.raises(ValueError, match="seed is 0 or more, not -1"):
        draw(SUMMER, -1)
    with pytest.raises(ValueError, match="At least one scene must be drawn, not 0"):
        draw_many(SUMMER, 0, 0)
