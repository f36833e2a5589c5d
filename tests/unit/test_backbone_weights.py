"""Weights go in whole or not at all, and no pickle is opened."""

import pickle

import pytest
import torch
from torch import nn

from inlier.backbones.weights import load_weights, read_weights, refuse_pickles
from inlier.errors import Mismatch
from inlier.files import write_tensors


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
def test_a_file_fits_with_and_without_what_wrappers_put_before_its_names(tmp_path, prefix):
    stored = network(1).state_dict()
    write_tensors(tmp_path / "w", {prefix + name: value for name, value in stored.items()})
    receiver = network(2)
    load_weights(receiver, tmp_path / "w")
    assert same(receiver.state_dict(), stored)


def test_a_network_that_is_wrapped_itself_takes_the_names_as_they_are(tmp_path):
    wrapped, receiver = nn.Sequential(), nn.Sequential()
    wrapped.module, receiver.module = network(1), network(2)
    write_tensors(tmp_path / "w", wrapped.state_dict())
    load_weights(receiver, tmp_path / "w")
    assert same(receiver.state_dict(), wrapped.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("2.weight"), "tensors 1 missing (2.weight)"),
        (lambda state: state.update(extra=torch.zeros(1)), "tensors 1 unexpected (extra)"),
        (
            lambda state: state.update({"2.weight": torch.zeros(2, 5, 1, 1)}),
            "tensors 1 of another shape (2.weight (2, 5, 1, 1) for (2, 4, 1, 1))",
        ),
        (
            lambda state: [state.pop(name) for name in ("0.weight", "0.bias", "1.weight", "1.bias")],
            "tensors 4 missing (0.weight, 0.bias, 1.weight, ...)",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_its_first_tensors_and_changes_nothing(tmp_path, change, message):
    state = dict(network(1).state_dict())
    change(state)
    write_tensors(tmp_path / "w.safetensors", state)
    receiver = network(2)
    before = {name: value.clone() for name, value in receiver.state_dict().items()}
    with pytest.raises(Mismatch) as error:
        load_weights(receiver, tmp_path / "w.safetensors")
    assert message in str(error.value)
    assert "w.safetensors' are not this network's" in str(error.value)
    assert same(receiver.state_dict(), before)


def test_counters_of_batch_normalisations_may_be_absent(tmp_path):
    state = {name: value for name, value in network(1).state_dict().items() if "num_batches" not in name}
    write_tensors(tmp_path / "w", state)
    receiver = network(2)
    load_weights(receiver, tmp_path / "w")
    assert all(torch.equal(receiver.state_dict()[name], value) for name, value in state.items())


def test_a_tensor_with_two_names_needs_one_of_them(tmp_path):
    def tied(seed):
        made = network(seed)
        made.append(nn.Conv2d(4, 2, 1))
        made[3].weight = made[2].weight
        return made

    state = dict(tied(1).state_dict())
    weight = state.pop("3.weight")
    write_tensors(tmp_path / "w", state)
    receiver = tied(2)
    load_weights(receiver, tmp_path / "w")
    assert receiver[3].weight is receiver[2].weight
    assert torch.equal(receiver[3].weight, weight)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "W.PTH", "w.ckpt", "pytorch_model.bin", "w.th", "w.tar"])
def test_a_pickle_is_refused_unopened_with_the_way_to_convert_it(tmp_path, name):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("the pickle was opened",)

    path = tmp_path / name
    path.write_bytes(pickle.dumps(Bomb()))
    for reading in (refuse_pickles, read_weights, lambda file: load_weights(network(), file)):
        with pytest.raises(Mismatch, match=r"opens none.*safetensors\.torch as s; s\.save_file") as error:
            reading(path)
        assert str(path.with_suffix(".safetensors")) in str(error.value)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No file .*none\.safetensors"):
        load_weights(network(), tmp_path / "none.safetensors")
