"""What a command does with memory that it has freed."""

import os
import subprocess
import sys

import pytest

from inlier.cli.memory import CHOSEN

PAGES = """
import resource, sys
from inlier.cli.memory import keep_memory
kept = keep_memory() if sys.argv[1] == "keep" else None
import torch
for _ in range(30):  # until there is a block that fits
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def asked(way: str, **chosen: str) -> tuple[str, int]:
    """What `keep_memory` says, and how many pages the system gave for ten tensors of 64 MB, one after another."""
    plain = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    command = [sys.executable, "-c", PAGES, way]
    done = subprocess.run(command, env=plain | chosen, capture_output=True, text=True, check=True)
    kept, pages = done.stdout.split()
    return kept, int(pages)


needs_glibc = pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="another C library than glibc")


@needs_glibc
def test_freed_memory_is_taken_again():
    kept, pages = asked("keep")
    assert kept == "True"
    assert pages < asked("leave")[1] / 5


@needs_glibc
@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"])
def test_what_the_user_has_set_stays(name):
    kept, pages = asked("keep", **{name: "65536"})
    assert kept == "False"
    assert pages > asked("keep")[1] * 5


def test_other_systems_are_left_alone(monkeypatch):
    from inlier.cli import memory

    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.keep_memory() is False
