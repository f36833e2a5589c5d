"""Files are written whole or not at all, and nothing is unpickled."""

import os
import pickle
import stat

import pytest
import torch

from inlier.errors import Mismatch
from inlier.files import PRIVATE, read_tensors, replacing, write_bytes, write_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2]), "c": torch.tensor(True)}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_tensors_and_metadata_come_back(tmp_path):
    path = tmp_path / "new" / "folder" / "t.safetensors"
    write_tensors(path, {**TENSORS, "t": TENSORS["a"].T}, {"rule": "x"})
    tensors, metadata = read_tensors(path)
    assert metadata == {"rule": "x"}
    assert torch.equal(tensors.pop("t"), TENSORS["a"].T)
    assert tensors.keys() == TENSORS.keys()
    assert all(
        torch.equal(tensors[name], value) and tensors[name].dtype == value.dtype for name, value in TENSORS.items()
    )


def test_without_metadata_there_is_none(tmp_path):
    write_tensors(tmp_path / "t", TENSORS)
    assert read_tensors(tmp_path / "t")[1] == {}


def interrupted(path, error):
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise error


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("existed", [True, False])
def test_a_raising_writer_leaves_the_old_file_and_no_other(tmp_path, error, existed):
    path = tmp_path / "f"
    if existed:
        path.write_bytes(b"old")
    with pytest.raises(error):
        interrupted(path, error)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"] * existed


def test_until_it_is_whole_the_old_file_is_what_is_there(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == path.parent  # a rename across file systems would not be atomic
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_is_private_from_the_first_byte_on_under_any_umask(tmp_path):
    before = os.umask(0)
    try:
        with replacing(tmp_path / "f", PRIVATE) as temporary:
            assert mode(temporary) == 0o600
        assert mode(tmp_path / "f") == 0o600
    finally:
        os.umask(before)


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_public_file_has_what_the_umask_leaves(tmp_path, umask, expected):
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "f", b"x")
    finally:
        os.umask(before)
    assert mode(tmp_path / "f") == expected


def test_a_missing_file_and_a_folder_are_said_to_be_no_file(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"No file .* Expected a safetensors file"):
            read_tensors(path)


@pytest.mark.parametrize("kept", [0, 4, 8, 60, -1])
def test_a_file_cut_short_is_refused_by_its_name(tmp_path, kept):
    write_tensors(tmp_path / "t.safetensors", TENSORS)
    whole = (tmp_path / "t.safetensors").read_bytes()
    (tmp_path / "t.safetensors").write_bytes(whole[:kept])
    with pytest.raises(Mismatch, match=r"t\.safetensors' is not a whole safetensors file"):
        read_tensors(tmp_path / "t.safetensors")


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    (tmp_path / "t.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(Mismatch, match="reads no pickled weights"):
        read_tensors(tmp_path / "t.pt")
    assert not (tmp_path / "sprung").exists()
