"""Who may only ask is a change of a study: image by image, under a seed of its own, against the monitor named."""

from pathlib import Path

import pytest
import torch
from attacked import fitted, subjects

from inlier.attacks.asking import ask_monitor
from inlier.evaluation.changes import Ground, plans_of, seed_of
from inlier.images import TensorImages


def ground(monitor):
    images = subjects().images
    source, size = TensorImages(images), (images.shape[-2], images.shape[-1])
    return Ground(fitted().backbone, size, images.shape[1], source, None, Path(), 7, None, monitor)


def test_every_image_is_asked_about_under_its_name():
    named = []

    def monitor(name):
        named.append(name)
        return fitted()

    (plan,) = plans_of([{"asked": "square", "monitor": "bands", "eps": 0.2, "queries": 40, "name": "asking"}])
    images = subjects().images[:2]
    made = plan.change(ground(monitor)).make(images, ["a", "b"])
    assert named == ["bands"]
    for image, name, found in zip(images, "ab", made, strict=True):
        seed = seed_of(7, "asking", name)
        alone = ask_monitor(fitted(), image[None], 0.2, how="square", queries=40, seed=seed)
        assert torch.equal(alone.images[0], found)
        assert (found - image).abs().max() > 0.1


def test_without_monitors_there_is_nobody_to_ask():
    (plan,) = plans_of([{"asked": "rays", "monitor": "bands", "eps": 0.2}])
    with pytest.raises(ValueError, match="there is none here"):
        plan.change(ground(None))
