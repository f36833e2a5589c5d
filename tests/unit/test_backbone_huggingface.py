"""Folders that transformers saved: the same logits and the same preprocessing as transformers, offline, unpickled."""

import json
import socket
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.backbones.base import Classification, Segmentation
from inlier.backbones.huggingface import Preprocessing, from_config, from_folder, from_model
from inlier.backbones.load import load_backbone
from inlier.errors import Mismatch, Unavailable
from inlier.files import read_tensors, write_tensors
from inlier.monitor import Monitor

transformers = pytest.importorskip("transformers")

SEGFORMER = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2]}
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
STATISTICS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PICTURE = (np.indices((70, 101)).sum(0)[..., None] * [1, 2, 3] % 256).astype(np.uint8)
IMAGE = torch.from_numpy(PICTURE.copy()).permute(2, 0, 1)[None] / 255


def labels(*names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def segformer():
    torch.manual_seed(0)
    config = transformers.SegformerConfig(**SEGFORMER, decoder_hidden_size=16, **labels("road", "sky", "void"))
    return transformers.SegformerForSemanticSegmentation(config)


def vit():
    torch.manual_seed(0)
    config = transformers.ViTConfig(**VIT, image_size=32, patch_size=8, **labels("cat", "dog"))
    return transformers.ViTForImageClassification(config)


def resnet():
    torch.manual_seed(0)
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(**RESNET, **labels("a", "b", "c")))


PROCESSORS = {
    segformer: {"image_processor_type": "SegformerImageProcessor", "size": {"height": 64, "width": 96}, **STATISTICS},
    vit: {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}},
    resnet: {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 56}, **STATISTICS},
}
MODELS = pytest.mark.parametrize("model", PROCESSORS)


@pytest.fixture
def quiet():
    """No bars of transformers itself while a test saves something."""
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


def save(model, folder, processor=None):
    made = model()
    made.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor or PROCESSORS[model]))
    return made.eval()


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@MODELS
@pytest.mark.usefixtures("offline", "quiet")
def test_a_folder_is_the_saved_network_with_its_classes(tmp_path, model):
    saved = save(model, tmp_path)
    backbone = load_backbone(str(tmp_path))
    assert type(backbone.network) is type(saved)
    assert backbone.task.classes == tuple(saved.config.id2label.values())
    assert type(backbone.task) is (Segmentation if model is segformer else Classification)
    assert backbone.task.void == (2 if model is segformer else None)
    prepared = backbone.prepare(IMAGE)
    with torch.no_grad():
        torch.testing.assert_close(backbone.core(prepared).logits, saved(prepared).logits)
        assert backbone(IMAGE).shape == ((1, 3, 70, 101) if model is segformer else (1, len(backbone.task.classes)))
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("model", "processor", "size"),
    [
        (segformer, PROCESSORS[segformer], (64, 96)),
        (segformer, {**PROCESSORS[segformer], "do_rescale": False}, (64, 96)),
        (segformer, {**PROCESSORS[segformer], "rescale_factor": 1 / 127.5}, (64, 96)),
        (segformer, {**PROCESSORS[segformer], "do_normalize": False}, (64, 96)),
        (segformer, {"image_processor_type": "SegformerImageProcessor", "size": 48}, (48, 48)),
        (segformer, {**PROCESSORS[segformer], "do_resize": False}, (70, 101)),
        (vit, PROCESSORS[vit], (32, 32)),
        (vit, {"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "resample": 3}, (32, 32)),
        (resnet, PROCESSORS[resnet], (56, 56)),
        (resnet, {**PROCESSORS[resnet], "crop_pct": 0.5}, (56, 56)),
        (resnet, {**PROCESSORS[resnet], "size": {"shortest_edge": 384}}, (384, 384)),
    ],
)
@pytest.mark.usefixtures("quiet")
def test_preprocessing_is_what_the_image_processor_does(tmp_path, model, processor, size):
    save(model, tmp_path, processor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.utils.logging, "get_verbosity", lambda: 40)
        theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path, local_files_only=True)
    expected = theirs(images=Image.fromarray(PICTURE), return_tensors="pt")["pixel_values"]
    backbone = from_folder(tmp_path)
    prepared = backbone.prepare(IMAGE)
    assert prepared.shape[-2:] == expected.shape[-2:] == size
    # Pillow rounds to whole numbers of 0-255 after each of its two passes, and cuts overshoot between them.
    steps = (prepared - expected).abs() * 255 * backbone.std
    assert steps.mean() < 0.6
    assert steps.quantile(0.99) < 3


@MODELS
@pytest.mark.usefixtures("quiet")
def test_options_replace_what_the_processor_says(tmp_path, model):
    save(model, tmp_path)
    backbone = load_backbone(str(tmp_path), mean=(0.5,) * 3, std=(0.25,) * 3, size=(32, 32), bgr=True)
    assert backbone.prepare(IMAGE).shape == (1, 3, 32, 32)
    assert set(backbone.mean.flatten().tolist()) == {0.5}
    assert backbone.bgr
    with torch.no_grad():
        assert backbone(IMAGE).isfinite().all()


@pytest.mark.usefixtures("quiet")
def test_without_a_processor_the_statistics_are_asked_for(tmp_path):
    save(vit, tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(Mismatch, match=r"no preprocessor_config\.json: give the mean and std"):
        from_folder(tmp_path)
    backbone = from_folder(tmp_path, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert backbone.size == (32, 32)
    torch.testing.assert_close(backbone.std.flatten(), torch.full((3,), 0.5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_pad": True}, "pads images"),
        ({"resample": 1}, "Pillow's filter 1"),
        ({"size": {"longest_edge": 64}}, "resizes to {'longest_edge': 64}"),
        ({"size": {"shortest_edge": 64}, "crop_pct": 0.9, "image_processor_type": "OtherImageProcessor"}, "resizes to"),
        ({"do_resize": False, "do_center_crop": True, "crop_size": 8}, "crops images of any size"),
    ],
)
def test_preprocessing_that_cannot_be_repeated_is_refused(settings, message):
    with pytest.raises(Mismatch, match=message):
        Preprocessing.of({"size": {"height": 8, "width": 8}, **settings})


def test_settings_of_a_processor_are_arguments_of_a_backbone():
    settings = {"size": {"shortest_edge": 9}, "do_center_crop": True, "crop_size": {"height": 8, "width": 7}}
    settings |= {"image_mean": [0.5], "image_std": [0.25], "resample": 3, "do_flip_channel_order": True}
    expected = Preprocessing((0.5,), (0.25,), bgr=True, size=9, crop=(8, 7), resample="bicubic")
    assert Preprocessing.of(settings) == expected


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quiet")
def test_pickled_weights_are_never_opened(tmp_path):
    save(vit, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(Mismatch, match=r"Pickled ones \(pytorch_model\.bin\) are not opened"):
        from_folder(tmp_path)


@pytest.mark.usefixtures("quiet")
def test_a_folder_that_lacks_tensors_or_has_another_networks_is_refused(tmp_path):
    save(vit, tmp_path)
    state, metadata = read_tensors(tmp_path / "model.safetensors")
    changes = (
        {name: value for name, value in state.items() if name != "classifier.weight"},
        {**state, "surplus": torch.zeros(1)},
        {**state, "classifier.weight": torch.zeros(5, 16)},
    )
    for changed in changes:
        write_tensors(tmp_path / "model.safetensors", changed, metadata)
        with pytest.raises(Mismatch, match=r"not this network's|cannot be loaded"):
            from_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04broken")
    with pytest.raises(Mismatch, match="cannot be loaded"):
        from_folder(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "vit", "architectures": ["ViTModel"]}, "names ViTModel"),
        ({"model_type": "vit"}, "names none in its architectures"),
        (
            {"model_type": "no_such_type", "architectures": ["XForImageClassification"]},
            r"config\.json .* cannot be used",
        ),
        ({"architectures": ["XForImageClassification"]}, r"config\.json .* cannot be used"),
    ],
)
def test_a_config_of_no_known_kind_is_refused(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_tensors(tmp_path / "model.safetensors", {"w": torch.zeros(1)})
    with pytest.raises(Mismatch, match=message):
        from_folder(tmp_path)


@pytest.mark.usefixtures("quiet")
def test_code_that_lies_in_the_folder_is_not_run(tmp_path):
    save(vit, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("raise AssertionError('code of the folder was run')\n")
    with pytest.raises(Mismatch, match=r"config\.json .* cannot be used"):
        from_folder(tmp_path)


def test_without_transformers_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    write_tensors(tmp_path / "model.safetensors", {"w": torch.zeros(1)})
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(Unavailable, match=r"pip install 'inlier\[transformers\]'"):
        load_backbone(str(tmp_path))


# --- from a model, from a config --------------------------------------------------------------------------------------


@MODELS
@pytest.mark.usefixtures("quiet")
def test_a_config_with_weights_of_its_own_is_the_saved_network(tmp_path, model):
    save(model, tmp_path / "saved")
    (tmp_path / "config").mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / "config" / name).write_bytes((tmp_path / "saved" / name).read_bytes())
    with pytest.raises(Mismatch, match=r"no safetensors weights\. Give a file of them"):
        load_backbone(str(tmp_path / "config"))
    apart = load_backbone(str(tmp_path / "config"), weights=tmp_path / "saved" / "model.safetensors")
    assert apart.fingerprint() == load_backbone(str(tmp_path / "saved")).fingerprint()


@MODELS
def test_an_instantiated_model_is_wrapped_and_comes_back_as_it_was(model):
    network = model().train()
    backbone = from_model(network, Preprocessing((0.5,) * 3, (0.5,) * 3, size=(32, 32)))
    assert backbone.network is network
    assert torch.equal(backbone(IMAGE), backbone(IMAGE))
    backbone.release()
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_config_makes_a_network_of_the_class_it_names():
    config = transformers.SegformerConfig(**SEGFORMER, num_labels=4)
    with pytest.raises(Mismatch, match=r"SegformerConfig\) names none in its architectures"):
        from_config(config)
    config.architectures = ["SegformerForSemanticSegmentation"]
    backbone = from_config(config)
    assert backbone.prepare(IMAGE) is not None
    assert backbone(IMAGE).shape == (1, 4, 70, 101)


@MODELS
def test_second_derivatives_exist(model):
    network = model()
    network.config.architectures = [type(network).__name__]
    backbone = from_config(network.config, Preprocessing(size=(32, 32)))
    images = IMAGE.clone().requires_grad_()
    (first,) = torch.autograd.grad(backbone(images).logsumexp(1).sum(), images, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), images)
    assert second.isfinite().all()
    assert second.any()


@MODELS
def test_a_monitor_is_fitted_to_it(model):
    images = torch.rand(40, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    backbone = from_model(model(), Preprocessing(size=(32, 32)))
    monitor = Monitor(backbone, ["mahalanobis", "max_softmax"]).fit(images).calibrate(false_alarm_rate=0.1)
    assert monitor(images[:2]).p_value.shape == (2,)
