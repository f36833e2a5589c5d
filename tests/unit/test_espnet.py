"""ESPNet: the published weight files load strictly, CamVid is segmented as well as is known, and any size goes."""

import pytest
import torch

from inlier.backbones.base import Backbone, Segmentation
from inlier.backbones.espnet import CAMVID_CLASSES, CITYSCAPES_CLASSES, ESPNet, ESPNetC, espnet
from inlier.datasets.folder import ImageFolder
from inlier.datasets.labels import label_map
from inlier.errors import Mismatch
from inlier.evaluation.metrics import ConfusionMatrix
from inlier.files import read_tensors, write_tensors
from inlier.taps import find_taps

FILES = {
    "espnet_decoder_camvid_p2_q8": (ESPNet, CAMVID_CLASSES, 129),
    "espnet_decoder_cityscapes_p2_q3": (ESPNet, CITYSCAPES_CLASSES, 89),
    "espnet_decoder_cityscapes_p2_q8": (ESPNet, CITYSCAPES_CLASSES, 129),
    "espnet_encoder_cityscapes_p2_q3": (ESPNetC, CITYSCAPES_CLASSES, 69),
    "espnet_encoder_cityscapes_p2_q8": (ESPNetC, CITYSCAPES_CLASSES, 109),
}


def weights(data, name):
    return data / "weights" / f"{name}.safetensors"


@pytest.mark.parametrize("name", FILES)
def test_a_published_file_loads_to_the_last_tensor(data, name):
    backbone = espnet(weights(data, name))
    kind, classes, leaves = FILES[name]
    assert type(backbone.network) is kind
    assert backbone.task.classes == classes
    assert sum(not list(module.children()) for module in backbone.network.modules()) == leaves
    stored, own = read_tensors(weights(data, name))[0], backbone.network.state_dict()
    assert set(own) - set(stored) <= {key for key in own if key.endswith("num_batches_tracked")}
    assert all(torch.equal(own[key], value) for key, value in stored.items())
    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, 40, 56)).shape == (1, len(classes), 40, 56)


def test_the_cityscapes_net_has_the_known_number_of_channels(data):
    found = find_taps(espnet(weights(data, "espnet_decoder_cityscapes_p2_q8")), (256, 512))
    channels = {side: sum(shape[0] for tap, shape in found.items() if tap.side == side) for side in ("output", "input")}
    assert channels == {"output": 5526, "input": 6914}


def camvid_miou(backbone, data, every):
    folder = ImageFolder(data / "camvid" / "test")
    assert len(folder) == 117
    matrix = ConfusionMatrix(len(CAMVID_CLASSES), CAMVID_CLASSES.index("void"))
    with torch.no_grad():
        for i, batch in enumerate(folder.batches(1)):
            if i % every == 0:
                matrix.update(
                    backbone.predict(batch.images), label_map(data / "camvid" / "testannot", batch.names[0])[None]
                )
    return matrix.mean_iou()


def wrongly_rgb(backbone):
    mean, std = backbone.mean.flatten().tolist(), backbone.std.flatten().tolist()
    return Backbone(backbone.network, backbone.task, mean=mean, std=std)


def test_camvid_is_segmented_and_rgb_by_mistake_is_far_worse(data):
    backbone = espnet(weights(data, "espnet_decoder_camvid_p2_q8"))
    right = camvid_miou(backbone, data, every=12)
    assert right > 0.55
    assert camvid_miou(wrongly_rgb(backbone), data, every=12) < right - 0.25


@pytest.mark.slow
def test_camvids_mean_iou_is_the_known_one_on_all_test_frames(data):
    assert 0.57 < camvid_miou(espnet(weights(data, "espnet_decoder_camvid_p2_q8")), data, every=1) < 0.60


def test_cityscapes_frames_are_segmented(data):
    backbone = espnet(weights(data, "espnet_decoder_cityscapes_p2_q8"))
    folder = data / "cityscapes_samples" / "half_1024x512"
    name = "aachen_000000_000019_leftImg8bit.webp"
    truth = label_map(folder, name.replace("leftImg8bit", "gtFine_labelIds"))
    ids = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    train_ids = torch.full((256,), 19)
    train_ids[torch.tensor(ids)] = torch.arange(19)
    image = next(batch.images for batch in ImageFolder(folder).batches(1) if batch.names == (name,))
    with torch.no_grad():
        predicted = backbone.predict(image)[0]
    counted = train_ids[truth] != 19
    assert (predicted == train_ids[truth])[counted].double().mean() > 0.93


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 5), (33, 65), (41, 64), (45, 47), (64, 64)])
@pytest.mark.parametrize("skip", ["maps", "maps+image"])
def test_images_of_any_size_get_an_answer_of_their_size(height, width, skip):
    networks = [ESPNet(5, p=1, q=1, skip=skip), ESPNetC(5, p=1, q=1)]
    for network in networks:
        assert Backbone(network, Segmentation(tuple("abcde")))(torch.rand(2, 3, height, width)).shape == (
            2, 5, height, width,
        )  # fmt: skip


@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize(("p", "q"), [(2, 3), (1, 5)])
@pytest.mark.parametrize("skip", ["maps", "maps+image"])
def test_the_form_is_read_off_the_file(tmp_path, decoder, p, q, skip):
    network = ESPNet(12, p, q, skip) if decoder else ESPNetC(12, p, q)
    write_tensors(tmp_path / "w", network.state_dict())
    loaded = espnet(tmp_path / "w").network
    assert type(loaded) is type(network)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert getattr(loaded, "skip", skip) == skip


def test_the_origins_preprocessing_is_what_prepare_does(tmp_path):
    write_tensors(tmp_path / "w", ESPNetC(20).state_dict())
    rgb = torch.rand(1, 3, 4, 4)
    mean, std = torch.tensor([72.3923, 82.9089, 73.1584]), torch.tensor([45.3192, 46.1529, 44.9148])
    bgr = 255 * rgb[:, [2, 1, 0]]
    origin = (bgr - mean[:, None, None]) / std[:, None, None] / 255
    torch.testing.assert_close(espnet(tmp_path / "w").prepare(rgb), origin)


def test_another_number_of_outputs_needs_statistics_and_names(tmp_path):
    write_tensors(tmp_path / "w", ESPNetC(5).state_dict())
    with pytest.raises(Mismatch, match=r"has 5 outputs; .* Give mean and std \(BGR, 0-255\) and the class names"):
        espnet(tmp_path / "w")
    backbone = espnet(tmp_path / "w", mean=(1, 2, 3), std=(4, 5, 6), classes=tuple("abcde"))
    torch.testing.assert_close(backbone.mean.flatten(), torch.tensor([1.0, 2.0, 3.0]) / 255)
    assert backbone.task.classes == tuple("abcde")


@pytest.mark.parametrize(
    "missing", ["encoder.level2.0.bn.act.weight", "conv.conv.weight", "encoder.classifier.conv.weight"]
)
def test_a_file_that_lacks_a_tensor_is_refused_by_its_name(tmp_path, missing):
    state = ESPNet(12, 1, 1).state_dict()
    del state[missing]
    write_tensors(tmp_path / "w.safetensors", state)
    with pytest.raises(Mismatch, match=r"w\.safetensors'") as error:
        espnet(tmp_path / "w.safetensors")
    assert missing in str(error.value) or "holds no ESPNet" in str(error.value)


def test_a_file_with_a_tensor_too_much_is_refused(tmp_path):
    write_tensors(tmp_path / "w", {**ESPNet(12, 1, 1).state_dict(), "surplus": torch.zeros(1)})
    with pytest.raises(Mismatch, match="is not a whole ESPNet"):
        espnet(tmp_path / "w")


def test_weights_of_espnet_v2_and_of_a_resnet_are_no_espnet(data):
    for name in ("espnetv2_s0.5_cityscapes_1024x512", "cifar10_resnet20"):
        with pytest.raises(Mismatch, match="holds no ESPNet"):
            espnet(weights(data, name))


def test_a_form_of_skip_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="skip must be 'maps' or 'maps\\+image', not 'image'"):
        ESPNet(12, skip="image")
