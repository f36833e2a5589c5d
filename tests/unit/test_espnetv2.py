"""ESPNetv2: the published weights load strictly, Cityscapes is segmented as it should be, and any size goes."""

import pytest
import torch

from inlier.backbones.espnet import CITYSCAPES_CLASSES
from inlier.backbones.espnetv2 import ESPNetv2, espnetv2
from inlier.backbones.load import load_backbone
from inlier.datasets.folder import ImageFolder
from inlier.datasets.labels import label_map
from inlier.errors import Mismatch
from inlier.files import read_tensors, write_tensors
from inlier.taps import find_taps

WIDTHS = {"0.5": (16, 32, 64, 128), "1.0": (32, 64, 128, 256)}
SMALL = (16, 32, 48, 64)
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Of the Cityscapes train ids 0 to 18."""


def published(data, scale):
    return data / "weights" / f"espnetv2_s{scale}_cityscapes_1024x512.safetensors"


def frames(data, count):
    """The half-size labelled frames: image, and train ids with 19 where there is none."""
    folder = data / "cityscapes_samples" / "half_1024x512"
    train_ids = torch.full((256,), 19)
    train_ids[torch.tensor(LABEL_IDS)] = torch.arange(19)
    images = [batch for batch in ImageFolder(folder).batches(1) if "leftImg8bit" in batch.names[0]]
    for batch in images[:count]:
        yield batch.images, train_ids[label_map(folder, batch.names[0].replace("leftImg8bit", "gtFine_labelIds"))]


def accuracy(backbone, image, truth):
    with torch.no_grad():
        predicted = backbone.predict(image)[0]
    return (predicted == truth)[truth != 19].double().mean().item()


@pytest.mark.parametrize("scale", WIDTHS)
def test_a_published_file_loads_to_the_last_tensor(data, scale):
    backbone = espnetv2(published(data, scale))
    stored, own = read_tensors(published(data, scale))[0], backbone.network.state_dict()
    assert set(own) == set(stored)
    assert all(torch.equal(own[name], value) for name, value in stored.items())
    assert backbone.task.classes == CITYSCAPES_CLASSES


def test_a_cityscapes_frame_is_segmented_and_without_its_statistics_it_is_not(data):
    backbone = load_backbone(f"espnetv2:{published(data, '1.0')}")
    (_, (image, truth)) = frames(data, 2)
    right = accuracy(backbone, image, truth)
    assert right > 0.96
    assert accuracy(backbone.adapted(bgr=True), image, truth) < right - 0.01
    assert accuracy(backbone.adapted(mean=(0.0,) * 3, std=(1.0,) * 3), image, truth) < 0.7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale", "known"), [("1.0", (0.921, 0.970, 0.953, 0.963)), ("0.5", (0.909, 0.962, 0.941, 0.959))]
)
def test_pixel_accuracy_on_the_labelled_frames_is_the_known_one(data, scale, known):
    backbone = espnetv2(published(data, scale))
    found = [accuracy(backbone, image, truth) for image, truth in frames(data, 4)]
    assert found == pytest.approx(known, abs=0.002)


@pytest.mark.parametrize("classes", [5, 20])
@pytest.mark.parametrize(("repeats", "decoder"), [((1, 2), 4), ((2, 1), 8)])
def test_the_form_is_read_off_the_file(tmp_path, classes, repeats, decoder):
    network = ESPNetv2(classes, SMALL, repeats, decoder)
    write_tensors(tmp_path / "w", network.state_dict())
    backbone = espnetv2(tmp_path / "w")
    loaded = backbone.network.state_dict()
    assert loaded.keys() == network.state_dict().keys()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.items())
    assert backbone.task.classes == (CITYSCAPES_CLASSES if classes == 20 else tuple("01234"))


@pytest.mark.parametrize(("height", "width"), [(2, 3), (7, 5), (33, 65), (45, 47), (64, 96)])
def test_images_of_any_size_get_an_answer_of_their_size(height, width):
    network = ESPNetv2(6, SMALL, (1, 1), 4).eval()
    with torch.no_grad():
        assert network(torch.rand(2, 3, height, width)).shape == (2, 6, height, width)


def test_every_layer_with_weights_is_a_tap(tmp_path):
    write_tensors(tmp_path / "w", ESPNetv2(6, SMALL, (1, 1), 4).state_dict())
    backbone = espnetv2(tmp_path / "w").adapted(size=(32, 64))
    # A block that down-samples leaves the activation within its EESP to the block around it.
    unused = {f"base_net.level{stage}_0.eesp.module_act" for stage in (2, 3, 4)}
    weighted = {
        name
        for name, module in backbone.network.named_modules()
        if not list(module.children()) and list(module.parameters())
    }
    tapped = {tap.module for tap in find_taps(backbone, (32, 64)) if tap.side == "output"}
    assert weighted - tapped == unused


def test_what_is_no_espnetv2_is_refused(tmp_path):
    write_tensors(tmp_path / "other.safetensors", {"conv.weight": torch.zeros(1)})
    with pytest.raises(Mismatch, match=r"other\.safetensors' holds no ESPNetv2"):
        espnetv2(tmp_path / "other.safetensors")
    state = ESPNetv2(6, SMALL, (1, 1), 4).state_dict()
    write_tensors(tmp_path / "w", state)
    with pytest.raises(Mismatch, match="has 6 outputs, and there are 2 class names"):
        espnetv2(tmp_path / "w", classes=("a", "b"))
    del state["bu_dec_l2.br.br.0.bias"]
    write_tensors(tmp_path / "w", state)
    with pytest.raises(Mismatch, match=r"1 missing \(bu_dec_l2\.br\.br\.0\.bias\)"):
        espnetv2(tmp_path / "w")
