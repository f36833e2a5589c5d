"""How should the default's detectors be fused, and which of them, and what of that holds for 25 images? Clean CamVid
frames and made-up anomalies decide.

    python experiments/default/fuse.py --data DATA

DATA holds camvid/ and weights/. Frames and pseudo-anomalies are those of choose.py. Whole monitors are fitted and
calibrated without some blocks of frames, or without a drive, on all the other frames or on 25 spread evenly over them,
and score what was left out and what was made of it: mean AUROC over the pseudo-anomalies, and the share of clean frames
left out that is flagged at 5 %. Writes fusions.json beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from choose import RATE, Seen, main
from torch import Tensor

from inlier.evaluation.metrics import auroc
from inlier.images import evenly
from inlier.monitor import DEFAULT, ESCALATE, Monitor

HERE = Path(__file__).parent
BANDS, PROFILE, LOOK = DEFAULT
MONITORS: Mapping[str, Mapping[str, Any]] = {
    "bands": {"detectors": [BANDS]},
    "profile": {"detectors": [PROFILE]},
    "look": {"detectors": [LOOK]},
    "bands, profile": {"detectors": [BANDS, PROFILE]},
    "bands, profile, sum": {"detectors": [BANDS, PROFILE], "fusion": "sum"},
    "bands, look": {"detectors": [BANDS, LOOK]},
    "bands, look, sum": {"detectors": [BANDS, LOOK], "fusion": "sum"},
    "bands, profile, look": {"detectors": DEFAULT},
    "bands, profile, look, sum": {"detectors": DEFAULT, "fusion": "sum"},
    "the default": {"detectors": DEFAULT, "escalate": ESCALATE},
}
SOME = 25


def judged(seen: Seen, settings: Mapping[str, Any], fold: Tensor, count: int | None) -> dict[str, Any]:
    """Mean AUROC and alarms of one kind of monitor: each fold by one fitted to `count` of the others' frames, or to
    all."""
    scores = torch.zeros(len(fold), dtype=torch.float64)
    made = {name: torch.zeros(len(seen.chosen), dtype=torch.float64) for name in seen.odd}
    alarms = []
    for number in sorted(set(fold.tolist())):
        inside, outside = (fold == number).nonzero()[:, 0], (fold != number).nonzero()[:, 0]
        if count is not None:
            outside = outside[torch.tensor(evenly(len(outside), count))]
        monitor = Monitor(seen.monitor.backbone, **settings, seed=0).fit(seen.clean.subset(outside))
        monitor.calibrate(false_alarm_rate=RATE)
        scores[inside] = monitor.score_of(seen.clean.subset(inside)).double()
        alarms.append(monitor.calibration.flagged(scores[inside], RATE).double().mean().item())
        of_fold = (fold[seen.chosen] == number).nonzero()[:, 0]
        for name, readings in seen.odd.items():
            made[name][of_fold] = monitor.score_of(readings.subset(of_fold)).double()
    areas = {name: round(auroc(scores, each), 4) for name, each in made.items()}
    return {
        "auroc": areas, "mean_auroc": round(sum(areas.values()) / len(areas), 4),
        "alarms": [round(share, 4) for share in alarms],
    }  # fmt: skip


def tried(options: argparse.Namespace) -> dict[str, Any]:
    """The table, by monitor and by how it was fitted."""
    seen = Seen.of(options, DEFAULT)
    found: dict[str, Any] = {}
    for name, settings in MONITORS.items():
        for kind, fold in seen.folds.items():
            for count in (None, SOME):
                what = kind if count is None else f"{kind}, {count} frames"
                found.setdefault(name, {})[what] = judged(seen, settings, fold, count)
        print(f"{name}: {[each['mean_auroc'] for each in found[name].values()]}", flush=True)
    return {"config": seen.config, "monitors": found}


def table(results: Mapping[str, Any]) -> str:
    kinds = list(next(iter(results["monitors"].values())))
    lines = [
        "mean AUROC over the pseudo-anomalies, and the largest share of a fold's clean frames flagged at "
        f"{results['config']['rate']:.0%}",
        f"{'':28}" + "".join(f"{kind:>20}" for kind in kinds),
    ]
    for name, found in results["monitors"].items():
        cells = [f"{each['mean_auroc']:.3f} {max(each['alarms']):7.1%}" for each in found.values()]
        lines.append(f"{name:28}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main(tried, table, __doc__, HERE / "fusions.json")
