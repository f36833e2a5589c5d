"""Numbers that the DAAIN paper prints, and those that running its reference implementation gave.

"Paper" is section 4 and Table 2 of von Baussnern et al. 2021; "run" is the authors' code, run and counted.
"""

from statistics import mean

import pytest
import torch

from inlier.anatomy import Anatomy
from inlier.backbones.base import Backbone, Segmentation
from inlier.backbones.espnet import CAMVID_CLASSES, CITYSCAPES_CLASSES, ESPNet
from inlier.densities.flow import Flow
from inlier.sampling import blue_noise


@pytest.mark.parametrize(
    ("volume", "distance", "printed", "tolerance"),
    [
        ((5297, 256, 512), 64, 1784, 0.03),  # paper, Cityscapes
        ((5297, 256, 512), 64, 1792, 0.03),  # run
        ((5297, 256, 512), 128, 262, 0.04),  # paper
        ((5297, 256, 512), 128, 257, 0.04),  # run
        ((5151, 360, 480), 64, 2245, 0.03),  # run, CamVid
        ((5151, 360, 480), 128, 303, 0.04),  # run
    ],
)
def test_blue_noise_has_as_many_points_as_the_paper(volume, distance, printed, tolerance):
    counts = [count(volume, distance, seed) for seed in range(4)]
    assert mean(counts) == pytest.approx(printed, rel=tolerance)


def test_points_of_the_papers_key_keep_their_distance():
    points = blue_noise((5297, 256, 512), 64, seed=0).points.double()
    nearest = torch.cdist(points, points).fill_diagonal_(torch.inf).amin(1)
    assert nearest.min() > 64 - 3**0.5
    assert nearest.median() < 1.2 * 64  # and they are no farther than a dense packing makes them


KEYS: dict[tuple[tuple[int, int, int], int, int], int] = {}


def count(volume, distance, seed):
    """How many points; drawn once for the paper's and the run's row."""
    asked = volume, distance, seed
    if asked not in KEYS:
        KEYS[asked] = len(blue_noise(volume, distance, seed))
    return KEYS[asked]


@pytest.fixture(scope="module")
def anatomy():
    network = Backbone(ESPNet(len(CITYSCAPES_CLASSES), p=2, q=8), Segmentation(CITYSCAPES_CLASSES))
    return Anatomy.of(network, (256, 512))


def channels(anatomy, side, name=lambda module: module):
    """Channels of all taps of one side; of taps whose names come out equal only the last counts."""
    named = {name(tap.module): shape[0] for tap, shape in anatomy.shapes.items() if tap.side == side}
    return sum(named.values())


def test_espnet_has_129_leaf_modules_and_a_tap_on_each_side_of_every_one(anatomy):
    for side in ("output", "input"):
        assert sum(tap.side == side for tap in anatomy.shapes) == 129


def test_our_volume_has_every_channel_and_the_papers_lacks_those_whose_names_collide(anatomy):
    joined = {tap.module.replace(".", "_") for tap in anatomy.everywhere()}
    assert len(joined) == 129 - 12
    assert (channels(anatomy, "output"), channels(anatomy, "input")) == (5526, 6914)
    lossy = [channels(anatomy, side, lambda module: module.replace(".", "_")) for side in ("output", "input")]
    assert lossy == [5297, 6579]


def test_the_camvid_networks_volume_too():
    network = Backbone(ESPNet(len(CAMVID_CLASSES), p=2, q=8, skip="maps+image"), Segmentation(CAMVID_CLASSES))
    anatomy = Anatomy.of(network, (360, 480))
    assert channels(anatomy, "output") == 5380
    assert channels(anatomy, "output", lambda module: module.replace(".", "_")) == 5151


def test_three_quarters_of_the_channels_are_at_an_eighth_of_the_size(anatomy):
    by_size: dict[tuple[int, int], int] = {}
    for shape in anatomy.everywhere().values():
        by_size[shape[1:]] = by_size.get(shape[1:], 0) + shape[0]
    assert by_size == {(32, 64): 4233, (64, 128): 1061, (128, 256): 212, (256, 512): 20}


@pytest.mark.parametrize(("blocks", "counted", "printed"), [(8, 256_976, 2.6e5), (16, 513_952, 5.1e5)])
def test_the_flow_has_table_2s_number_of_parameters(blocks, counted, printed):
    parameters = sum(parameter.numel() for parameter in Flow(1784, blocks=blocks, width=10).parameters())
    assert parameters == counted
    assert float(f"{parameters:.1e}") == printed
