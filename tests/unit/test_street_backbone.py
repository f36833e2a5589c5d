"""The packaged network: it segments scenes it has never seen, though not perfectly, and unseen worlds worse."""

from importlib.resources import files

import pytest
import torch

from inlier.backbones.street import STREET_CLASSES, street_espnet, street_hardened
from inlier.datasets.scenes.classes import CLASSES
from inlier.datasets.scenes.scene import draw_many
from inlier.datasets.scenes.worlds import TRAINING_WORLDS, UNSEEN_WORLDS, WORLDS
from inlier.evaluation.hardening import changed


@pytest.fixture(scope="module")
def backbone():
    return street_espnet()


def mean_iou(backbone, worlds, count=8, seed=1_000):
    confusion = torch.zeros(len(CLASSES) ** 2, dtype=torch.long)
    for world in worlds:
        images, labels = draw_many(WORLDS[world], count, seed)
        with torch.no_grad():
            predicted = torch.cat([backbone.predict(image[None]) for image in images])
        confusion += torch.bincount((labels * len(CLASSES) + predicted).flatten(), minlength=len(CLASSES) ** 2)
    table = confusion.view(len(CLASSES), len(CLASSES)).double()
    hit = table.diagonal()
    return (hit / (table.sum(0) + table.sum(1) - hit)).mean().item()


def test_its_classes_are_those_of_the_scenes():
    assert STREET_CLASSES == CLASSES
    assert street_espnet().task.void is None


def test_it_is_worth_monitoring_on_fresh_scenes_of_the_worlds_it_knows(backbone):
    assert 0.6 <= mean_iou(backbone, TRAINING_WORLDS) <= 0.85


@pytest.mark.slow
def test_an_unseen_world_is_a_real_shift(backbone):
    known = mean_iou(backbone, TRAINING_WORLDS)
    for world in UNSEEN_WORLDS:
        assert mean_iou(backbone, [world]) < known - 0.05


def test_it_answers_every_pixel_of_any_size(backbone):
    images, _ = draw_many(WORLDS["winter"], 2, 7, size=(97, 131))
    assert backbone(images).shape == (2, len(CLASSES), 97, 131)
    assert not backbone.training


def test_half_precision_on_disk_becomes_single_in_the_network(backbone):
    assert {value.dtype for value in backbone.network.parameters()} == {torch.float32}


def test_two_loads_are_the_same_network(backbone):
    assert backbone.fingerprint() == street_espnet().fingerprint()


@pytest.mark.parametrize("name", ["street_espnet", "street_hardened"])
def test_its_weights_are_small_enough_to_be_packaged(name):
    assert len((files("inlier.backbones") / "weights" / f"{name}.safetensors").read_bytes()) < 1_500_000


def test_the_hardened_one_costs_little_and_an_attack_changes_less_of_it(backbone):
    hardened = street_hardened()
    known = {name: mean_iou(network, TRAINING_WORLDS) for name, network in (("as is", backbone), ("hard", hardened))}
    assert known["as is"] - 0.05 <= known["hard"] <= known["as is"] + 0.02
    images, _ = draw_many(WORLDS["summer"], 3, 1_000)
    (before,), (after,) = (changed(network, images, [2.5 / 255], steps=5) for network in (backbone, hardened))
    assert after["damage"] < 0.8 * before["damage"]
