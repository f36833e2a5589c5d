"""Every registered perturbation keeps what perturbations promise."""

import pytest
import torch

from inlier.perturbations.base import SEVERITIES
from inlier.perturbations.table import PERTURBATIONS
from inlier.testing.perturbations import check_perturbation
from inlier.testing.specimens import scenes

MOVING = {"vertical_flip", "roll", "shift"}
ALIKE = {"vertical_flip", "sign_noise", "grey_level"}
"""The same at every severity from 1."""
BOTH_WAYS = {"saturation", "color_jitter", "frost"}
"""Whose severities lie on no one line: paler then gaudier, drawn up or down, brighter by ice and darker by shade."""
every_one = pytest.mark.parametrize("name", list(PERTURBATIONS))


def perturbed(name, severity, images, seed=0):
    return PERTURBATIONS[name](severity=severity)(images, torch.Generator().manual_seed(seed))


@every_one
def test_a_registered_perturbation_keeps_its_promises(name):
    check_perturbation(name)


@every_one
@pytest.mark.parametrize("shape", [(2, 1, 9, 14), (1, 3, 1, 1), (2, 3, 1, 30), (1, 1, 25, 1), (0, 3, 8, 8)], ids=str)
def test_images_of_any_size_grey_or_rgb_are_taken(name, shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    for severity in (1, 5):
        after = perturbed(name, severity, images)
        assert after.shape == shape
        assert ((after >= 0) & (after <= 1)).all()


@every_one
def test_the_type_of_the_images_is_kept(name):
    images = scenes(2, (24, 30)).double()
    for severity in SEVERITIES:
        assert perturbed(name, severity, images).dtype == torch.float64


@pytest.mark.parametrize("name", sorted(set(PERTURBATIONS) - ALIKE - BOTH_WAYS))
def test_a_higher_severity_changes_more(name):
    images = scenes(6, (120, 100))
    none, one, _, three, _, five = (
        (perturbed(name, severity, images) - images).abs().mean() for severity in SEVERITIES
    )
    assert none == 0 < one < three < five  # neighbours may tie: ImageNet-C trades the one strength for another


@pytest.mark.parametrize("name", sorted(ALIKE))
def test_a_control_is_the_same_at_every_severity(name):
    images = scenes(2, (24, 30))
    first, *others = (perturbed(name, severity, images) for severity in SEVERITIES[1:])
    assert all(torch.equal(first, other) for other in others)


@every_one
def test_labels_move_if_and_only_if_pixels_do(name):
    places = torch.arange(40 * 50).view(1, 40, 50)
    for severity in SEVERITIES:
        moved = PERTURBATIONS[name](severity=severity).move(places, torch.Generator().manual_seed(0))
        assert torch.equal(moved, places) == (name not in MOVING or severity == 0)
        assert moved.dtype == places.dtype


@every_one
def test_what_is_seen_is_where_the_labels_say(name):
    # Two halves of unlike brightness, told apart again after any change but the strongest: what moves is found out.
    labels = (torch.arange(64).view(1, -1, 1) + 0.6 * torch.arange(80) > 55).long().expand(4, -1, -1)
    images = (0.15 + 0.5 * labels)[:, None].expand(-1, 3, -1, -1).contiguous()
    after = perturbed(name, 1, images, seed=2).mean(1)
    moved = PERTURBATIONS[name](severity=1).move(labels, torch.Generator().manual_seed(2))
    bright, dark = (after[moved == label].median() for label in (1, 0))
    seen = (after > (bright + dark) / 2).long()
    assert (seen == moved).float().mean() > (0.75 if name == "fog" else 0.9)  # fog itself is uneven
