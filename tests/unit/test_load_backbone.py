"""A text stands for one backbone: a name, a file with it, a factory of the user's own, or a folder; or says why not."""

import sys

import pytest
import torch

from inlier.backbones.base import Segmentation
from inlier.backbones.load import BACKBONES, load_backbone
from inlier.backbones.resnet_cifar import ResNetCIFAR
from inlier.errors import Mismatch, Unavailable
from inlier.files import write_tensors

IMAGES = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))

MODELS = """
import torch
from torch import nn
from inlier.backbones.base import Backbone, Segmentation

def tiny():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))

def wrapped():
    return Backbone(tiny(), Segmentation(("road", "void")), mean=(.1, .2, .3), std=(.4, .5, .6), size=(16, 20))

class Net(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 2, 1)

class Family:
    @staticmethod
    def small():
        return Net()

ready = Net()

def deep(depth, width=2, *, norm):
    return Net()

def number():
    return 7

def broken():
    raise KeyError("no such layer")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A user's working directory, with a package of models in it."""
    package = tmp_path / "zoo_of_a_user"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text(MODELS)
    (package / "needy.py").write_text("import timmm_is_not_installed\n")
    (package / "halfway.py").write_text("from torch import nothing_of_the_sort\n")
    (package / "faulty.py").write_text("1 / 0\n")
    (package / "script.py").write_text("import argparse\nargparse.ArgumentParser().exit(2)\n")
    (tmp_path / "my_single_model.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.split(".")[0] in ("zoo_of_a_user", "my_single_model"):
            del sys.modules[name]


# --- names ------------------------------------------------------------------------------------------------------------


def test_the_packaged_backbone_has_a_name():
    assert load_backbone("street")(IMAGES).shape[0] == 2


def test_every_name_is_a_backbone_factory():
    assert all(callable(BACKBONES[name]) for name in BACKBONES)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", LookupError, "No backbone named ''"),
        ("streat", LookupError, "No backbone named 'streat'. Did you mean 'street'? Nor is 'streat' a folder"),
        ("espnett:x", LookupError, "No backbone named 'espnett'. Did you mean 'espnet'? No module 'espnett' in"),
        ("espnet", ValueError, "Backbone 'espnet' needs weights: write espnet:FILE.safetensors"),
        ("espnet:none.safetensors", FileNotFoundError, "No file 'none.safetensors'"),
        ("espnet:net.pth", Mismatch, "'net.pth' is a pickled file"),
        ("net.pt", Mismatch, "'net.pt' is a pickled file"),
        ("net.safetensors", ValueError, "holds weights, not a network: write NAME:net.safetensors"),
        ("street:w.safetensors", ValueError, "has its weights in the package and takes no 'w.safetensors'"),
        (":factory", ValueError, "A factory is package.module:factory, not ':factory'"),
    ],
)
def test_a_name_that_cannot_be_loaded_says_why(text, error, message):
    with pytest.raises(error) as raised:
        load_backbone(text)
    assert message in str(raised.value)


def test_weights_may_come_after_the_colon_or_as_the_option_but_not_both(tmp_path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, ResNetCIFAR(8).state_dict())
    one, other = load_backbone(f"resnet_cifar:{path}"), load_backbone("resnet_cifar", weights=path)
    assert one.fingerprint() == other.fingerprint()
    with pytest.raises(ValueError, match="has weights twice"):
        load_backbone(f"resnet_cifar:{path}", weights=path)


def test_weights_of_something_else_are_refused(tmp_path):
    write_tensors(tmp_path / "w.safetensors", {"conv.weight": torch.zeros(1)})
    with pytest.raises(Mismatch, match=r"w\.safetensors' holds no ESPNet"):
        load_backbone(f"espnet:{tmp_path / 'w.safetensors'}")


def test_options_replace_the_preprocessing_of_a_named_backbone():
    own, other = load_backbone("street"), load_backbone("street", mean=(0.5,) * 3, std=(1.0,) * 3, size=(16, 20))
    assert torch.equal(own.prepare(IMAGES), (IMAGES - own.mean) / own.std)
    assert other.prepare(IMAGES).shape[-2:] == (16, 20)
    assert other.task.classes == own.task.classes
    assert load_backbone("street", bgr=True).bgr


def test_class_names_can_be_given_but_not_another_number_of_them():
    names = ("void", *"abcdefgh")
    assert load_backbone("street", classes=names).task.void == 0
    with pytest.raises(ValueError, match="has 9 outputs, and there are 2 names"):
        load_backbone("street", classes=("a", "b"))


def test_one_output_leaves_nothing_to_pick():
    with pytest.raises(ValueError, match="'street' has one output; there is no 'lane'"):
        load_backbone("street", output="lane")


# --- factories --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "zoo_of_a_user.models:tiny",
        "zoo_of_a_user.models:Net",
        "zoo_of_a_user.models:Family.small",
        "zoo_of_a_user.models:ready",
        "my_single_model:tiny",
    ],
)
def test_a_factory_of_the_current_directory_makes_a_backbone(here, text):
    path = list(sys.path)
    backbone = load_backbone(text, classes=("road", "sky"))
    assert backbone(IMAGES).shape == (2, 2, 32, 40)
    assert type(backbone.task) is Segmentation
    assert backbone.task.classes == ("road", "sky")
    assert sys.path == path


def test_the_options_of_a_plain_module_reach_it(here):
    write_tensors(here / "w.safetensors", {f"module.{i}.{kind}": torch.full(shape, 0.5) for i, kind, shape in (
        (0, "weight", (4, 3, 1, 1)), (0, "bias", (4,)), (1, "weight", (2, 4, 1, 1)), (1, "bias", (2,)),
    )})  # fmt: skip
    backbone = load_backbone(
        "zoo_of_a_user.models:tiny",
        weights=here / "w.safetensors",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        size=(8, 8),
        bgr=True,
    )
    expected = 4 * 0.5 * (0.5 * (backbone.prepare(IMAGES)).sum(1, keepdim=True) + 0.5) + 0.5
    assert backbone.bgr
    torch.testing.assert_close(backbone.core(backbone.prepare(IMAGES))[:, :1], expected)


def test_a_factorys_backbone_is_used_as_it_is_and_options_replace_what_they_name(here):
    as_is = load_backbone("zoo_of_a_user.models:wrapped")
    assert as_is.size == (16, 20)
    assert as_is.task.classes == ("road", "void")
    torch.testing.assert_close(as_is.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    other = load_backbone("zoo_of_a_user.models:wrapped", size=(8, 8), classes=("void", "road"))
    assert other.size == (8, 8)
    assert other.task.void == 0
    assert torch.equal(other.mean, as_is.mean)
    with pytest.raises(ValueError, match="knows its own output"):
        load_backbone("zoo_of_a_user.models:wrapped", output="1")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("zoo_of_a_usr.models:tiny", LookupError, "No module 'zoo_of_a_usr' in"),
        ("zoo_of_a_usr.models:tiny", LookupError, "Did you mean 'zoo_of_a_user'?"),
        ("zoo_of_a_user.modles:tiny", LookupError, "No module 'zoo_of_a_user.modles' in 'zoo_of_a_user'. Did you mean"),
        ("zoo_of_a_user.models.deeper:tiny", LookupError, "No module 'zoo_of_a_user.models.deeper' in"),
        ("my_singel_model:tiny", LookupError, "Did you mean 'my_single_model'?"),
        ("zoo_of_a_user.models:tyni", LookupError, "'zoo_of_a_user.models' has no 'tyni'. Did you mean 'tiny'?"),
        ("zoo_of_a_user.models:Family.smal", LookupError, "has no 'smal'. Did you mean 'small'?"),
        ("zoo_of_a_user.needy:net", Unavailable, "'zoo_of_a_user.needy' does not import: No module named 'timmm_is"),
        ("zoo_of_a_user.halfway:net", Unavailable, "'zoo_of_a_user.halfway' does not import: cannot import name"),
        ("zoo_of_a_user.faulty:net", ValueError, "'zoo_of_a_user.faulty' does not import: ZeroDivisionError"),
        ("zoo_of_a_user.script:net", ValueError, "'zoo_of_a_user.script' does not import: SystemExit: 2"),
        ("zoo_of_a_user.models:deep", TypeError, "needs depth, norm and is called without arguments"),
        ("zoo_of_a_user.models:number", TypeError, "makes int, not a torch.nn.Module"),
        ("zoo_of_a_user.models:__name__", TypeError, "is str, neither a torch.nn.Module nor a function"),
        ("zoo_of_a_user.models:broken", ValueError, "raised KeyError: 'no such layer'"),
    ],
)
def test_a_factory_that_cannot_be_used_says_which_part_is_wrong(here, text, error, message):
    path = list(sys.path)
    with pytest.raises(error) as raised:
        load_backbone(text)
    assert message in str(raised.value)
    assert sys.path == path


def test_a_registered_name_wins_over_a_module_and_a_folder_of_that_name(here):
    (here / "street.py").write_text("raise AssertionError('imported')\n")
    (here / "espnet").mkdir()
    assert load_backbone("street").fingerprint()
    with pytest.raises(ValueError, match="Backbone 'espnet' needs weights"):
        load_backbone("espnet")


def test_a_folder_without_a_config_is_no_saved_network(here):
    with pytest.raises(Mismatch, match=r"'zoo_of_a_user' has no config\.json; expected what save_pretrained"):
        load_backbone("zoo_of_a_user")
