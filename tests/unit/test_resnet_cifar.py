"""CIFAR ResNets: the published weights load to the last tensor and classify as well as is known."""

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.backbones.load import load_backbone
from inlier.backbones.resnet_cifar import CIFAR10_CLASSES, ResNetCIFAR, resnet_cifar
from inlier.errors import Mismatch
from inlier.files import read_tensors, write_tensors

DEPTHS = (20, 32, 44, 56)
LEARNT = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018}
"""Parameters; the paper's table 6 rounds them to 0.27, 0.46, 0.66 and 0.85 million."""


def published(data, depth):
    return data / "weights" / f"cifar10_resnet{depth}.safetensors"


def accuracy(backbone, data, count):
    sheet = np.asarray(Image.open(data / "cifar10" / "test.webp").convert("RGB"))
    rows, columns = (side // 32 for side in sheet.shape[:2])
    tiles = sheet.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)[:count]
    labels = torch.from_numpy(np.load(data / "cifar10" / "labels.npz")["test_labels"][:count].astype(np.int64))
    images = torch.from_numpy(tiles.copy()).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        predicted = torch.cat([backbone.predict(batch) for batch in images.split(250)])
    return (predicted == labels).double().mean().item()


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_published_file_loads_to_the_last_tensor(data, depth):
    backbone = resnet_cifar(published(data, depth))
    stored, own = read_tensors(published(data, depth))[0], backbone.network.state_dict()
    assert {name for name in own if not name.endswith("num_batches_tracked")} == {name[7:] for name in stored}
    assert all(torch.equal(own[name[7:]], value) for name, value in stored.items())
    assert sum(parameter.numel() for parameter in backbone.network.parameters()) == LEARNT[depth]
    assert sum(module.__class__.__name__ in ("Conv2d", "Linear") for module in backbone.network.modules()) == depth
    assert backbone.task.classes == CIFAR10_CLASSES


def test_its_accuracy_on_the_first_500_test_images_is_912_in_a_thousand(data):
    backbone = load_backbone(f"resnet_cifar:{published(data, 20)}")
    assert accuracy(backbone, data, 500) == pytest.approx(0.912, abs=0.004)
    assert accuracy(backbone.adapted(mean=(0.0,) * 3, std=(1.0,) * 3), data, 500) < 0.6


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "count", "known"), [(20, 5000, 0.9156), (32, 1000, 0.922), (56, 1000, 0.928)])
def test_its_accuracy_is_the_known_one(data, depth, count, known):
    assert accuracy(resnet_cifar(published(data, depth)), data, count) == pytest.approx(known, abs=0.001)


@pytest.mark.parametrize("depth", [8, 14, 20])
@pytest.mark.parametrize("classes", [10, 100])
def test_depth_and_classes_are_read_off_the_file(tmp_path, depth, classes):
    write_tensors(tmp_path / "w", ResNetCIFAR(depth, classes).state_dict())
    backbone = resnet_cifar(tmp_path / "w")
    assert sum(isinstance(module, torch.nn.Conv2d) for module in backbone.network.modules()) == depth - 1
    assert backbone.task.classes == (CIFAR10_CLASSES if classes == 10 else tuple(map(str, range(100))))
    assert backbone(torch.rand(2, 3, 32, 32)).shape == (2, classes)


def test_the_shortcut_of_a_widening_block_is_every_second_pixel_between_zeros():
    block = ResNetCIFAR(8).layer2[0]
    x = torch.rand(1, 16, 8, 8)
    shortcut = block.shortcut(x)
    assert torch.equal(shortcut[:, 8:24], x[..., ::2, ::2])
    assert not shortcut[:, :8].any()
    assert not shortcut[:, 24:].any()


def test_images_of_another_size_are_resized_to_the_one_it_knows(tmp_path):
    write_tensors(tmp_path / "w", ResNetCIFAR(8).state_dict())
    assert resnet_cifar(tmp_path / "w").prepare(torch.rand(1, 3, 64, 48)).shape == (1, 3, 32, 32)


def test_what_is_no_such_network_is_refused(tmp_path):
    write_tensors(tmp_path / "other.safetensors", {"conv.weight": torch.zeros(1)})
    with pytest.raises(Mismatch, match=r"other\.safetensors' holds no CIFAR ResNet"):
        resnet_cifar(tmp_path / "other.safetensors")
    state = ResNetCIFAR(8).state_dict()
    write_tensors(tmp_path / "w", state)
    with pytest.raises(Mismatch, match="has 10 outputs, and there are 2 class names"):
        resnet_cifar(tmp_path / "w", classes=("a", "b"))
    del state["layer3.0.bn2.weight"]
    write_tensors(tmp_path / "w", state)
    with pytest.raises(Mismatch, match=r"1 missing \(layer3\.0\.bn2\.weight\)"):
        resnet_cifar(tmp_path / "w")


@pytest.mark.parametrize("depth", [2, 7, 18, 52])
def test_a_depth_that_cannot_be_is_refused(depth):
    with pytest.raises(ValueError, match=f"depth is 6n \\+ 2: .* not {depth}"):
        ResNetCIFAR(depth)
