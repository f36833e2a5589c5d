"""An evaluation from its settings to its results: the work, the numbers, the pictures and the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from inlier.evaluation.changes import ChangePlan
from inlier.evaluation.measure import (
    curves_of,
    histograms,
    measured,
    targets_of,
    without_nan,
    worst_misses,
)
from inlier.evaluation.record_gates import record_gates
from inlier.evaluation.results_file import FORMAT, shortened, write_results
from inlier.evaluation.run import Evaluation
from inlier.evaluation.study import Study
from inlier.types import Progress

__all__ = ["SCORES", "evaluate"]

SCORES = "scores.safetensors"


def evaluate(
    study: Study,
    out: str | Path,
    *,
    data: str | Path | None = None,
    only: Sequence[str] = (),
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Carry a study out, or go on with it, and write `results.json` and `scores.safetensors` into the folder `out`.

    Args:
        study: what is tried on what.
        out: the folder; an evaluation that was ended goes on there.
        data: what `{data}` in the study's texts stands for.
        only: see `Evaluation`.
        command: what makes these results again, to be told in them.
        progress: told of every batch, fit and picture.

    Raises:
        Mismatch, LookupError: see `Evaluation`.
        ValueError: images, monitors or changes that do not fit each other.
    """
    evaluation = Evaluation(study, out, data=data, only=only, progress=progress)
    evaluated = evaluation.run()
    record = evaluated.record
    record.save(evaluation.out / SCORES)
    told = measured(record, void=evaluation.backbone.task.void)
    names = [monitor.name for monitor in record.monitors]
    main = study.main if study.main in names else next(iter(names))
    with evaluation.timed("pictures"):
        worst = worst_misses(record, main, study.worst)
        views = evaluation.pictures([(miss["set"], miss["image"]) for miss in worst], whole=False)
        first = record.clean.names[0]
        paper = [plan.entry.name for plan in evaluation.changes if plan.entry.paper and isinstance(plan, ChangePlan)]
        pictures = evaluation.pictures([(name, first) for name in paper], whole=True)
    gates = record_gates(record)
    if gates:
        with evaluation.timed("checks"):
            gates += evaluation.gates(main)
    figures: dict[str, Any] = {}
    if study.likelihood in names:
        figures["likelihood"] = histograms(record, str(study.likelihood))
    if evaluated.coactivation:
        figures["coactivation"] = evaluated.coactivation
    results = {
        "format": FORMAT,
        "inlier": version("inlier"),
        "title": study.title,
        "command": command,
        "config": asdict(study),
        "seconds": dict(evaluated.seconds),
        "threads": torch.get_num_threads(),
        "network": evaluated.network,
        "fitted_to": evaluated.fitted_to,
        "main": main,
        **told,
        "curves": curves_of(record, study.curves or [main]),
        "figures": figures,
        "worst": [miss | views[miss["set"], miss["image"]] for miss in worst],
        "pictures": {name: pictures[name, first] | {"image": first} for name in paper},
        "targets": targets_of(study.goals, told),
        "gates": [gate.told() for gate in gates],
        "notes": list(evaluated.notes),
    }
    plain: dict[str, Any] = shortened(without_nan(results))
    write_results(evaluation.out, plain)
    return plain
