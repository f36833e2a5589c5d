"""Whatever happened to a file of ours, loading it says so in one of our errors, or gives the same scores."""

import copy
import hashlib
import json
import math
import resource
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import inlier.artefact
from inlier.backbones.base import Backbone, Segmentation
from inlier.errors import InlierError
from inlier.files import packed, read_tensors
from inlier.images import TensorImages
from inlier.monitor import Monitor

SIZE = (16, 16)
DETECTORS = ["mahalanobis", "daain(distance=6, blocks=1)", "entropy"]
MEMORY = 300_000
"""KiB that loading may need beyond what was ever needed before; these monitors need a few."""


def images(n, seed=0):
    return torch.rand(n, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


FRESH = images(2, seed=1)


@pytest.fixture(scope="module")
def backbone():
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 3, stride=2, padding=1))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 2
    return Backbone(network, Segmentation(("a", "b", "c")))


@pytest.fixture(scope="module")
def saved(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "m.inlier"
    source = TensorImages(images(20), [f"{i}.png" for i in range(20)], ["left"] * 10 + ["right"] * 10)
    Monitor(backbone, DETECTORS, seed=0).fit(source).calibrate(false_alarm_rate=0.1, folds=2).save(path)
    return path


@pytest.fixture(scope="module")
def expected(saved, backbone):
    return Monitor.load(saved, backbone).score(FRESH).detach()


@pytest.fixture(scope="module")
def key(saved):
    (key,) = saved.parent.glob("*.key")
    return key


@pytest.fixture
def at_most_some_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + MEMORY


@pytest.fixture
def restored(saved, key):
    before = {file: file.read_bytes() for file in (saved, key)}
    yield
    for file, content in before.items():
        file.write_bytes(content)


# --- what can happen to bytes ----------------------------------------------------------------------------------------


def flip_bits(content, generator):
    for place in generator.integers(len(content), size=generator.integers(1, 5)):
        content[place] ^= 1 << int(generator.integers(8))


def flip_bits_of_the_header(content, generator):
    place = int(generator.integers(8 + header_size(content)))
    content[place] ^= 1 << int(generator.integers(8))


def cut(content, generator):
    del content[int(generator.integers(len(content))) :]


def insert(content, generator):
    place = int(generator.integers(len(content) + 1))
    content[place:place] = generator.bytes(int(generator.integers(1, 100)))


def append(content, generator):
    content += generator.bytes(int(generator.integers(1, 5000)))


def remove(content, generator):
    place = int(generator.integers(len(content)))
    del content[place : place + int(generator.integers(1, 100))]


def repeat(content, generator):
    begin, end = span(content, generator)
    content[end:end] = content[begin:end]


def swap_halves_of_a_block(content, generator):
    begin, end = span(content, generator)
    half = (end - begin) // 2
    content[begin : begin + 2 * half] = content[begin + half : begin + 2 * half] + content[begin : begin + half]


def erase(content, generator):
    begin, end = span(content, generator)
    content[begin:end] = bytes(end - begin)


def span(content, generator):
    begin = int(generator.integers(len(content)))
    return begin, min(len(content), begin + int(generator.integers(1, 1000)))


def header_size(content):
    return int.from_bytes(content[:8], "little")


def edit_header(content, generator):
    """Another header that is JSON: another length, type, shape, place or name of a tensor, or none."""
    size = header_size(content)
    header = json.loads(bytes(content[8 : 8 + size]))
    names = sorted(name for name in header if name != "__metadata__")
    one, other = (names[i] for i in generator.choice(len(names), 2, replace=False))
    edits = {
        "swap": lambda: header.update({one: header[other], other: header[one]}),
        "alias": lambda: header.update({one: header[other]}),
        "drop": lambda: header.pop(one),
        "rename": lambda: header.update({f"{one}x": header.pop(one)}),
        "metadata": lambda: header["__metadata__"].update({str(generator.choice(["manifest", "sha256"])): "{}"}),
        "no metadata": lambda: header.pop("__metadata__"),
        "type": lambda: header[one].update(dtype=str(generator.choice(TYPES))),
        "shape": lambda: header[one].update(shape=[2**int(generator.integers(63)), *header[one]["shape"]]),
        "flat": lambda: header[one].update(shape=[math.prod(header[one]["shape"])]),
        "offsets": lambda: header[one].update(data_offsets=sorted(generator.integers(2**40, size=2).tolist())),
        "backwards": lambda: header[one]["data_offsets"].reverse(),
        "negative": lambda: header[one].update(shape=[-1]),
        "text": lambda: header[one].update(shape="1"),
        "deep": lambda: header["__metadata__"].update(manifest="[" * 100_000),
    }  # fmt: skip
    edits[str(generator.choice(list(edits)))]()
    text = json.dumps(header).encode()
    content[: 8 + size] = len(text).to_bytes(8, "little") + text


TYPES = [
    "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64", "U64",
    "C64", "F4", "F6_E2M3", "F8_E8M0", "", "F128",
]  # fmt: skip
LENGTHS = [0, 1, 7, 2**31, 2**40, 2**63, 2**64 - 1, 100_000_000, 100_000_001]


def edit_length(content, generator):
    content[:8] = int(generator.choice(np.array(LENGTHS, dtype=np.uint64))).to_bytes(8, "little")


BYTES = [
    flip_bits, flip_bits_of_the_header, cut, insert, append, remove, repeat, swap_halves_of_a_block, erase, edit_header,
    edit_length,
]  # fmt: skip


def load(path, backbone):
    """The monitor, or what is said instead."""
    try:
        return Monitor.load(path, backbone)
    except InlierError as error:
        return str(error)


def is_refused(path, backbone, expected):
    """Whether it is refused in so many words; if it is not, it must score as before."""
    loaded = load(path, backbone)
    if isinstance(loaded, str):
        assert 20 < len(loaded) < 2000
        return True
    assert torch.equal(loaded.score(FRESH), expected)
    return False


@pytest.mark.usefixtures("restored", "at_most_some_memory")
@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_an_artefact_mutated_at_random_is_refused_or_the_same(saved, backbone, expected, count):
    whole, generator, refused = saved.read_bytes(), np.random.default_rng(count), Counter()
    for number in range(count):
        mutate = BYTES[number % len(BYTES)]
        content = bytearray(whole)
        mutate(content, generator)
        saved.write_bytes(content)
        if content == whole:
            refused["unchanged"] += 1
        elif is_refused(saved, backbone, expected):
            refused[mutate.__name__] += 1
    # Padding, the order of what has no order, and the kind of a number that stays equal are all that may change unseen.
    each = count // len(BYTES)
    assert all(refused[mutate.__name__] > 0.8 * each for mutate in BYTES), refused


@pytest.mark.usefixtures("restored", "at_most_some_memory")
def test_a_key_file_mutated_at_random_is_refused_or_the_same(saved, key, backbone, expected):
    whole, generator = key.read_bytes(), np.random.default_rng(1)
    outcomes = Counter()
    for number in range(1000):
        mutate = BYTES[number % len(BYTES)]
        content = bytearray(whole)
        mutate(content, generator)
        key.write_bytes(content)
        if content != whole:
            outcomes[is_refused(saved, backbone, expected)] += 1
    assert outcomes[True] > 10 * outcomes[False] > 0


# --- below the checksum: edited by something that knows how to make the checksum fit ----------------------------------


def rewrite(path, manifest, tensors):
    text = json.dumps(manifest)
    path.write_bytes(packed(tensors, {"manifest": text, "sha256": inlier.artefact._checksum(text, tensors)}))


@pytest.fixture
def parts(saved):
    tensors, metadata = read_tensors(saved)
    return json.loads(metadata["manifest"]), {name: tensor.clone() for name, tensor in tensors.items()}


VALUES = [
    None, True, -1, 0, 1, 2, 3.5, 10**4, 10**18, 10**30, math.nan, math.inf, "", "x", "a\0b", "x" * 300, "../x", [], {},
    [1],
]  # fmt: skip
NO_OTHER_WORD_FOR_IT = ("fusion", "rule", "settings")
"""What decides how scores are made and is written down once: nothing else in the file contradicts another value."""
FROM_THE_FACTORY = (*NO_OTHER_WORD_FOR_IT, "channels")


def places(value, path=()):
    """Every place in a manifest; of lists the first and last entry."""
    if path:
        yield path
    inside = value if isinstance(value, dict) else {}
    if isinstance(value, list) and value:
        inside = {0: value[0], len(value) - 1: value[-1]}
    for name, item in inside.items():
        yield from places(item, (*path, name))


def changed(manifest, path, change):
    """A copy of a manifest with `change(container, name)` made at a place."""
    whole = copy.deepcopy(manifest)
    container = whole
    for name in path[:-1]:
        container = container[name]
    change(container, path[-1])
    return whole


def every_change(manifest):
    for path in places(manifest):
        for value in VALUES:
            # How large a setting may be is for its factory to say.
            if not ("settings" in path and isinstance(value, int) and value > 10**4):
                yield path, changed(manifest, path, lambda where, name, value=value: where.update({name: value})
                                    if isinstance(where, dict) else where.__setitem__(name, value))  # fmt: skip
        yield path, changed(manifest, path, lambda where, name: where.pop(name))


@pytest.mark.slow
@pytest.mark.usefixtures("restored", "at_most_some_memory")
def test_a_manifest_edited_anywhere_is_refused_or_gives_the_same_scores(saved, backbone, expected, parts):
    manifest, tensors = parts
    refused = Counter()
    for path, edited in every_change(manifest):
        if edited == manifest:
            continue
        rewrite(saved, edited, tensors)
        try:
            loaded = load(saved, backbone)
        except (ValueError, TypeError, RuntimeError):  # in the words of the factory or of the network
            assert set(path) & set(FROM_THE_FACTORY), path
            continue
        refused[path[0]] += isinstance(loaded, str)
        if not isinstance(loaded, str) and not set(path) & set(NO_OTHER_WORD_FOR_IT):
            assert torch.equal(loaded.score(FRESH), expected), path
    assert all(refused[name] > 0 for name in manifest)


def edits_of_tensors(manifest, tensors):
    names = sorted(tensors)
    for one, other in zip(names, names[1:] + names[:1], strict=True):
        if tensors[one].shape != tensors[other].shape or tensors[one].dtype != tensors[other].dtype:
            yield tensors | {one: tensors[other], other: tensors[one]}
    for name, tensor in tensors.items():
        yield {other: tensors[other] for other in names if other != name}
        if tensor.ndim:  # PyTorch takes one number for a scalar
            yield tensors | {name: tensor[None]}
        yield tensors | {name: torch.zeros((*tensor.shape, 0))}
        if tensor.numel() > 1:
            yield tensors | {name: tensor.flatten()[:-1]}
    yield tensors | {"more": torch.zeros(3)}
    for name in names:
        if name.startswith(("clean.scores", "calibration.scores")):
            yield tensors | {name: torch.full_like(tensors[name], torch.nan)}
            yield tensors | {name: tensors[name].to(torch.bfloat16)[:3]}
    yield tensors | {"clean.folds": tensors["clean.folds"].double()}


@pytest.mark.usefixtures("restored", "at_most_some_memory")
def test_tensors_that_were_swapped_lost_or_reshaped_are_refused(saved, backbone, parts):
    manifest, tensors = parts
    for edited in edits_of_tensors(manifest, tensors):
        rewrite(saved, manifest, edited)
        odd = [name for name in {**tensors, **edited} if tensors.get(name) is not edited.get(name)]
        assert isinstance(load(saved, backbone), str), odd


def test_artefacts_of_earlier_versions_still_have_their_checksum():
    """The checksum's text is part of the format: NumPy's names of types, shapes as tuples, in the order of names."""
    tensors = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(3), "c": torch.tensor([True])}
    digest = hashlib.sha256(b"manifest")
    for name, array in (("a", np.int64(3)), ("b", np.float32([[1, 2]])), ("c", np.array([True]))):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    assert inlier.artefact._checksum("manifest", tensors) == digest.hexdigest()
