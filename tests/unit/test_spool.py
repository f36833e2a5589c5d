"""Rows beyond the limit are in files without a name, and nothing else tells that they are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from inlier.errors import Mismatch
from inlier.observation import Readings
from inlier.spool import Spool, gather


def batches():
    generator = torch.Generator().manual_seed(0)
    for n in (3, 4, 1):
        yield {
            "vectors": torch.randn(n, 5, generator=generator),
            "maps": torch.randn(n, 2, 3, 3, generator=generator).half(),
            "brain": torch.randn(n, 2, generator=generator).bfloat16(),
            "classes": torch.arange(n),
            "flags": torch.arange(n) % 2 == 0,
            "none": torch.zeros(n, 0),
        }


def spooled(limit):
    spool = Spool(limit)
    for batch in batches():
        spool.add(batch)
    return spool.tensors()


@pytest.mark.parametrize("limit", [0, 200, 10_000])
def test_what_comes_out_is_what_went_in_at_any_limit(limit):
    parts = list(batches())
    whole = spooled(limit)
    assert list(whole) == list(parts[0])
    for name, value in whole.items():
        assert value.dtype == parts[0][name].dtype
        assert torch.equal(value, torch.cat([part[name] for part in parts]))


def in_maps(tensor):
    """Whether a tensor lies in a mapped file of ours."""
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= address < end:
            return "inlier-" in line or "(deleted)" in line
    raise AssertionError("the tensor is nowhere")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_rows_beyond_the_limit_are_mapped_and_those_below_are_not():
    assert in_maps(spooled(0)["vectors"])
    assert not in_maps(spooled(10_000)["vectors"])


@pytest.mark.skipif(os.name != "posix", reason="files without a name")
def test_no_file_is_left_even_while_the_rows_are_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spool = Spool(0)
    spool.add(next(batches()))
    assert list(tmp_path.iterdir()) == []
    values = spool.tensors()
    assert list(tmp_path.iterdir()) == []
    assert values["vectors"].shape == (3, 5)


@pytest.mark.parametrize("limit", [0, 10_000])
def test_a_batch_of_another_shape_type_or_name_is_refused(limit):
    spool = Spool(limit)
    spool.add({"a": torch.zeros(2, 3)})
    with pytest.raises(Mismatch, match=r"'a' is \(3,\) of torch.float32 an image, and then \(4,\)"):
        spool.add({"a": torch.zeros(2, 4)})
    with pytest.raises(Mismatch, match=r"then \(3,\) of torch.float64"):
        spool.add({"a": torch.zeros(2, 3).double()})
    with pytest.raises(Mismatch, match=r"Readings of \['a'\] came first, and then some of \['b'\]"):
        spool.add({"b": torch.zeros(2, 3)})


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match="0 or more, not -1"):
        Spool(-1)


@pytest.mark.parametrize("limit", [0, 10_000])
def test_gathered_rows_are_indexed_rows(limit):
    values = spooled(0)
    indices = torch.tensor([7, 0, 0, 3])
    assert all(torch.equal(value, values[name][indices]) for name, value in gather(values, indices, limit).items())


@pytest.mark.parametrize("limit", [0, 10_000])
def test_readings_beyond_the_limit_are_cut_and_joined_like_others(limit):
    values = {name: value for name, value in spooled(0).items() if name != "none"}
    readings = Readings(values, tuple("abcdefgh"), tuple("xxxxyyyy"), memory_limit=limit)
    parts = [readings.subset(torch.arange(5)), readings.subset(torch.arange(5, 8))]
    again = Readings.concatenate(parts)
    assert (again.names, again.groups, again.memory_limit) == (readings.names, readings.groups, limit)
    assert all(torch.equal(again.values[name], value) for name, value in values.items())
    assert torch.equal(torch.cat(list(readings.rows("vectors"))), values["vectors"])


BOUNDED = """
import resource, sys
import torch
from torch import nn
from inlier.backbones.base import Backbone, Classification
from inlier.images import Batch
from inlier.monitor import Monitor

torch.set_num_threads(1)
IMAGES, WIDTH = 2000, 12800


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.wide = nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, WIDTH, 1)
        self.end = nn.Conv2d(WIDTH, 2, 1)

    def forward(self, x):
        return self.end(self.wide(self.pool(x))).flatten(1)


class Source:
    def __len__(self):
        return IMAGES

    def batches(self, size):
        for start in range(0, IMAGES, size):
            generator = torch.Generator().manual_seed(start)
            names = tuple(str(start + i) for i in range(min(size, IMAGES - start)))
            yield Batch(torch.rand(len(names), 3, 4, 4, generator=generator), names, ("all",) * len(names))


def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1e3


monitor = Monitor(Backbone(Network(), Classification(("a", "b"))), "mahalanobis").build((4, 4))
monitor.probe.read(torch.rand(8, 3, 4, 4))
before = peak()
store = sys.argv[2] if len(sys.argv) > 2 else None
readings = monitor.read(Source(), batch_size=50, memory_limit=int(sys.argv[1]), store=store)
megabytes = sum(value.numel() * value.element_size() for value in readings.values.values()) / 1e6
print(round(megabytes), round(peak() - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_reading_takes_no_more_memory_than_the_limit_allows(tmp_path):
    def measured(*arguments):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
        told = subprocess.run(
            [sys.executable, "-c", BOUNDED, *arguments], capture_output=True, text=True, check=True, env=environment
        )
        return tuple(int(number) for number in told.stdout.split())

    size, grown = measured("10000000")
    assert size > 100
    assert grown < 60
    assert measured("10000000", str(tmp_path / "x.readings"))[1] < 60
    assert measured("2000000000")[1] > size  # what would be taken without a limit
