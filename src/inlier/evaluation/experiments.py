"""Kinds of experiment: what the file that is given to `inlier evaluate` describes, by its `kind`.

Without a kind it is a study, monitors tried on changed images. Every other kind is a class whose keyword arguments are
the file's settings, and whose `run` works in a folder, goes on there after a kill, and gives results as JSON values.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from inlier.registry import Entry, Registry
from inlier.types import Progress

__all__ = ["EXPERIMENTS", "Experiment"]


class Experiment(Protocol):
    """Something that can be carried out."""

    def run(
        self, out: Path, *, data: Path | None = None, command: str = "", progress: Progress | None = None
    ) -> dict[str, Any]:
        """Carry it out, or go on with it.

        Args:
            out: the folder of the work, see `Workplace`.
            data: what `{data}` in the settings stands for.
            command: what makes the results again, to be told in them.
            progress: told of every batch.

        Returns:
            Results: `kind`, `title`, `command`, `config`, `seconds`, `notes` (sentences), and what its page shows.
        """
        ...


EXPERIMENTS: Registry[Callable[..., Experiment]] = Registry(
    "experiment",
    {
        "collisions": Entry(
            "inlier.evaluation.collisions:Collisions",
            "images with the features of others, and who notices",
            "Liang 2020",
        ),
        "curves": Entry(
            "inlier.evaluation.curves:Curves", "what a change of every size takes from a detector", "Fort 2022"
        ),
        "hardening": Entry(
            "inlier.evaluation.hardening:HardeningExperiment", "what hardening a network costs and brings"
        ),
        "keys": Entry(
            "inlier.evaluation.keys:Keys", "what a secret sampling key is worth", "DAAIN, von Baußnern et al. 2021"
        ),
        "patches": Entry("inlier.evaluation.patches:Patches", "how far from a patch its harm is done, and noticed"),
        "stress": Entry(
            "inlier.evaluation.stressing:StressExperiment", "a suite of attackers on a monitor that is fitted first"
        ),
    },
)
