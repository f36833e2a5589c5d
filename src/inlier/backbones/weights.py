"""Weights from a safetensors file into a network: every tensor or none.

Names and shapes are compared before anything is written, so that a file that does not fit leaves the network as it
was. Pickled files are refused by their ending and are never opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from inlier.errors import Mismatch
from inlier.files import read_tensors

__all__ = ["load_weights", "read_weights", "refuse_pickles"]

WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""

PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".th", ".tar")
"""Endings of files that PyTorch writes as pickles."""

NAMED = 3
"""So many tensors of each kind are named in a message."""


def refuse_pickles(path: str | Path) -> None:
    """Refuse a file that its ending says is a pickle.

    Raises:
        Mismatch: it is one; the message gives the line that converts it.
    """
    path = Path(path)
    if path.suffix.lower() in PICKLED:
        raise Mismatch(
            f"'{path}' is a pickled file: opening it can run any code, so inlier opens none. If you trust where it is "
            'from, convert it once: python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{path}', weights_only=True), '{path.with_suffix('.safetensors')}')\""
        )


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, without what DataParallel or torch.compile put before every name.

    Raises:
        FileNotFoundError: there is no such file.
        Mismatch: the file is pickled, or not a whole safetensors file.
    """
    refuse_pickles(path)
    return _unwrapped(read_tensors(Path(path))[0])


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a safetensors file into a network strictly: names and shapes must agree one to one.

    A prefix that DataParallel or torch.compile left is taken off where the names fit only without it. Counters of
    batch normalisations (`num_batches_tracked`) may be absent, since nothing reads them in eval mode, and so may all
    but one name of a tensor that the network has under several.

    Raises:
        FileNotFoundError: there is no such file.
        Mismatch: the file is pickled, damaged or another network's; the first tensors that differ are named. The
            network is then as it was.
    """
    own = network.state_dict()
    refuse_pickles(path)
    stored, _ = read_tensors(Path(path))
    if set(stored) - set(own):
        stored = _unwrapped(stored)
    stored |= _tied(own, stored)
    missing = [name for name in own if name not in stored and not name.endswith("num_batches_tracked")]
    surplus = [name for name in stored if name not in own]
    misshapen = [
        f"{name} {tuple(stored[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in stored and stored[name].shape != tensor.shape
    ]
    differences = [
        f"{len(names)} {kind} ({_first(names)})"
        for kind, names in (("missing", missing), ("unexpected", surplus), ("of another shape", misshapen))
        if names
    ]
    if differences:
        raise Mismatch(f"The weights in '{path}' are not this network's: tensors {'; '.join(differences)}")
    # Old counters stay where the file has none.
    network.load_state_dict({**own, **stored}, strict=True)


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for wrapper in (*WRAPPERS, *WRAPPERS):  # either may be outside the other
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def _tied(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that the file holds under another of their names in the network."""
    places = {(tensor.data_ptr(), tensor.shape): stored[name] for name, tensor in own.items() if name in stored}
    return {
        name: places[tensor.data_ptr(), tensor.shape]
        for name, tensor in own.items()
        if name not in stored and tensor.numel() and (tensor.data_ptr(), tensor.shape) in places
    }


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
