"""Settings of an evaluation: what cannot be is refused before anything is done."""

import pytest
import torch
from torch import nn

from inlier.backbones.base import Backbone, Segmentation
from inlier.config import from_keywords
from inlier.errors import Mismatch
from inlier.evaluation.changes import AttackPlan, Ground, OtherImages, Perturbed, plans_of, seed_of
from inlier.evaluation.defects import per_image_batch_norm
from inlier.evaluation.gathered import Gathered, gather_images, placed
from inlier.evaluation.study import Study
from inlier.images import TensorImages
from inlier.perturbations.geometric import Shift


def study(**changed):
    table = {"backbone": "street", "fit": "a", "clean": "b", "monitors": [{"name": "m", "detectors": "energy"}]}
    return from_keywords(Study, table | changed, "the study")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"monitors": []}, ValueError, "monitors of a study"),
        ({"monitrs": []}, ValueError, "Did you mean 'monitors'"),
        ({"monitors": [{"name": "m", "detectors": "energy", "treshold": False}]}, ValueError, "'threshold'"),
        ({"monitors": [{"name": "m", "detectors": "enrgy"}]}, LookupError, "'energy'"),
        ({"monitors": [{"name": "m", "detectors": "energy"}] * 2}, ValueError, "Two monitors are named 'm'"),
        ({"monitors": [{"name": "m", "detectors": "energy", "defects": ["batchnorm"]}]}, ValueError, "'batch_norm'"),
        (
            {"monitors": [{"name": "m", "detectors": ["energy", "entropy"], "threshold": False}]},
            ValueError,
            "fused by their calibrations",
        ),
        ({"main": "n"}, ValueError, "no monitor 'n'"),
        ({"rates": [0.0]}, ValueError, "above 0"),
        ({"targets": [{"text": "t", "monitor": "m", "metric": "auroc", "over": "fog"}]}, ValueError, "one of them"),
        (
            {"targets": [{"text": "t", "monitor": "m", "metric": "recall", "over": "fog", "at_least": 1}]},
            ValueError,
            "recall",
        ),
        (
            {"targets": [{"text": "t", "monitor": "m", "metric": "flagged", "over": "fog", "rate": 0.2, "at_most": 1}]},
            ValueError,
            "none of `rates`",
        ),
    ],
)
def test_a_study_that_cannot_be_is_refused(changed, error, message):
    with pytest.raises(error, match=message):
        study(**changed)


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ({"severity": 1}, ValueError, "one of perturbation, attack, joint, asked, universal, images"),
        ({"perturbation": "fog", "attack": "fgsm"}, ValueError, "one of perturbation"),
        ({"perturbation": "fogg"}, LookupError, "'fog'"),
        ({"perturbation": "fog", "severty": 3}, ValueError, "'severity'"),
        ({"attack": "fgms"}, LookupError, "'fgsm'"),
        ({"attack": "fgsm_targeted"}, ValueError, "needs target"),
        ({"attack": "fgsm", "epsilon": 1}, ValueError, "'eps'"),
        ({"attack": "fgsm", "patch": [3]}, ValueError, r"patch = \[h, w\]"),
        ({"attack": "fgsm", "patch": [3, 3], "low_resolution": [3, 3]}, ValueError, r"low_resolution = \[h, w\] or"),
        ({"universal": "uap"}, LookupError, "gd_uap"),
        ({"universal": "gd_uap", "iteration": 1}, ValueError, "'iterations'"),
        ({"images": "x"}, ValueError, "a name"),
        ({"images": "x", "name": "../x"}, ValueError, "letters, digits"),
        ({"images": "x", "name": "clean"}, ValueError, "Two sets are named 'clean'"),
    ],
)
def test_a_change_that_cannot_be_is_refused(table, error, message):
    with pytest.raises(error, match=message):
        plans_of([table])


def test_every_severity_is_a_set_and_one_of_them_the_papers():
    plans = plans_of([{"perturbation": "fog", "severities": [1, 3], "paper": 1}, {"perturbation": "jpeg", "quality": 90,
                      "name": "jpeg_90", "control": True}])  # fmt: skip
    told = [(plan.entry.name, plan.entry.kind, plan.entry.severity, plan.entry.paper) for plan in plans]
    assert told == [
        ("fog-1", "perturbation", 1, True), ("fog-3", "perturbation", 3, False), ("jpeg_90", "control", 1, False)
    ]  # fmt: skip
    assert plans[2].entry.settings == {"quality": 90}


def test_a_set_says_every_setting_that_it_was_made_with():
    attack, other = plans_of([{"attack": "ifgsm", "eps": 0.5}, {"images": "x", "name": "y"}])
    assert isinstance(attack, AttackPlan)
    assert attack.entry.settings == {"recipe": "ifgsm", "target": None, "eps": 0.5, "step_size": 0.005, "steps": 5}
    assert isinstance(other, OtherImages)
    assert other.entry.of is None


def test_an_alias_of_a_recipe_is_that_recipe():
    (attack,) = plans_of([{"attack": "pgd", "eps": 0.5}])
    assert (attack.entry.name, attack.entry.settings["recipe"]) == ("pgd_linf", "pgd_linf")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"target": "roda"}, "Did you mean 'road'"), ({"target": "other_scene"}, "no other scene"),
        ({"patch": [8, 9]}, "is larger than the image, which is 8 x 8"),
    ],
)  # fmt: skip
def test_a_target_or_a_patch_that_cannot_be_is_refused(setting, told):
    (plan,) = plans_of([{"attack": "fgsm", **setting}])
    ground = Ground(toy(), (8, 8), 3, TensorImages(torch.rand(2, 3, 8, 8)), None, None, 0)
    with pytest.raises(ValueError, match=told):
        plan.change(ground)


def test_pixels_and_maps_move_by_the_same_draw_whatever_the_batch():
    change = Perturbed(Shift(5), "shift-5", seed=3)
    maps = torch.randint(0, 255, (4, 1, 16, 20), generator=torch.Generator().manual_seed(0))
    names = [f"{number}.png" for number in range(4)]
    moved = change.make(maps.float().expand(-1, 3, -1, -1) / 255, names)
    assert torch.equal((moved[:, 0] * 255).round().long(), change.move(maps[:, 0], names))
    one = change.make(maps[2:3].float().expand(-1, 3, -1, -1) / 255, names[2:3])
    assert torch.equal(one[0], moved[2])
    assert not torch.equal(change.move(maps[:1, 0].expand(2, -1, -1), names[:2])[0], change.move(maps[:1, 0], ["9"])[0])


def test_seeds_differ_by_study_set_and_image():
    assert len({seed_of(0, "fog", "a"), seed_of(1, "fog", "a"), seed_of(0, "rain", "a"), seed_of(0, "fog", "b")}) == 4
    assert seed_of(0, "fog-1", "a") != seed_of(0, "fog", "1-a")


def source(count, group, classes=()):
    labels = torch.zeros(count, dtype=torch.long) if classes else None
    names = [f"{group}{number}" for number in range(count)]
    return TensorImages(torch.rand(count, 3, 4, 4), names, [group] * count, labels, classes)


def test_sources_one_after_the_other_are_one_source():
    both = Gathered([source(3, "a"), source(2, "b")])
    batches = list(both.batches(2))
    assert [batch.names for batch in batches] == [("a0", "a1"), ("a2", "b0"), ("b1",)]
    assert batches[1].groups == ("a", "b")
    assert len(both) == 5


def test_labels_of_sources_with_other_classes_are_left_out():
    assert Gathered([source(1, "a", ("x",)), source(1, "b", ("y",))]).classes == ()
    assert next(iter(Gathered([source(1, "a", ("x",)), source(1, "b", ("x",))]).batches(2))).labels is not None
    assert next(iter(Gathered([source(1, "a", ("x",)), source(1, "b")]).batches(2))).labels is None


def test_some_images_are_spread_evenly():
    some = Gathered([source(7, "a"), source(3, "b")], 5)
    assert [name for batch in some.batches(4) for name in batch.names] == ["a0", "a2", "a4", "a6", "b1"]
    assert len(Gathered([source(3, "a")], 9)) == 3


def test_the_folder_of_data_is_put_in_and_asked_for(tmp_path):
    assert placed("espnet:{data}/w", tmp_path) == f"espnet:{tmp_path}/w"
    assert placed("folder", None) == "folder"
    with pytest.raises(FileNotFoundError, match="--data"):
        gather_images("{data}/x", None)
    with pytest.raises(ValueError, match="'size'"):
        gather_images({"text": "x", "sise": [1, 2]}, None)


def toy():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    network[1].running_mean += 1
    return Backbone(network, Segmentation(("road", "sky")))


def test_the_defect_is_batch_norm_in_training_mode_one_image_at_a_time():
    backbone = toy()
    before, fingerprint = backbone(torch.full((1, 3, 8, 8), 0.5)), backbone.fingerprint()
    defective = per_image_batch_norm(backbone)
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = []
    for image in images:
        network = toy().network.train()
        expected.append(nn.functional.interpolate(network(image[None]), (8, 8), mode="bilinear"))
    torch.testing.assert_close(defective(images), torch.cat(expected))
    assert torch.equal(backbone(torch.full((1, 3, 8, 8), 0.5)), before)
    assert defective.fingerprint() != fingerprint == backbone.fingerprint()


def test_a_network_without_batch_norm_cannot_have_its_defect():
    with pytest.raises(Mismatch, match="no BatchNorm2d"):
        per_image_batch_norm(Backbone(nn.Conv2d(3, 2, 1), Segmentation(("a", "b"))))
