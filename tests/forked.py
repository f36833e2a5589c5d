"""`inlier` commands in processes of their own, forked from one that has loaded PyTorch, which is most of their time."""

import multiprocessing
import os
import sys
from pathlib import Path

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "inlier.monitor", "inlier.backbones.load", "inlier.datasets.load"])


def inlier(arguments: list[str], folder: Path, log: Path) -> tuple[int, str]:
    """Exit code of a command in a folder, and all that it printed; `log` is a file for the latter."""
    child = PROCESSES.Process(target=command, args=(arguments, folder, log, dict(os.environ)))
    child.start()
    child.join()
    return child.exitcode, log.read_text()


def command(arguments: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
    """What the child does: `inlier` with these arguments."""
    os.environ.update(environment)
    sys.path[:] = [*environment.get("PYTHONPATH", "").split(os.pathsep), *(place for place in sys.path if place)]
    os.chdir(folder)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv[:] = ["inlier", *arguments]
    import torch

    from inlier.cli.main import run

    torch.set_num_threads(1)
    run()
