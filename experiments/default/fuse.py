"""How should the default's detectors be fused, and which of them, and what of that holds for 25 images? Clean CamVid
frames and made-up anomalies decide.

    python experiments/default/fuse.py --data DATA

DATA holds camvid/ and weights/. Frames and pseudo-anomalies are those of choose.py. Whole monitors are fitted and
calibrated without some blocks of frames, or without a drive, on all the other frames or on 25 spread evenly over them,
and score what was left out and what was made of it: mean AUROC over the pseudo-anomalies, and the share flagged at 5 %
of clean frames left out and of harmless changes of these. Some monitors tolerate such a change, or a warmer light:
copies with it are among their clean frames. Writes fusions.json beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from choose import RATE, Seen, main, told
from torch import Tensor

from inlier.evaluation.metrics import auroc
from inlier.images import evenly
from inlier.monitor import DEFAULT, ESCALATE, Monitor
from inlier.observation import Readings
from inlier.perturbations.tolerance import Tolerating, tolerated

HERE = Path(__file__).parent
DEEPEST, PROFILE, MOVED = DEFAULT
BANDS, LOOK = "mahalanobis(normalise='rms')", "profile(look='jpeg')"
HALF: Mapping[str, Any] = {"escalate": ESCALATE}
MONITORS: Mapping[str, Mapping[str, Any]] = {
    "bands": {"detectors": [BANDS]},
    "deepest bands": {"detectors": [DEEPEST]},
    "profile": {"detectors": [PROFILE]},
    "profile with a look": {"detectors": [LOOK]},
    "bands, profile": {"detectors": [BANDS, PROFILE]},
    "deepest, profile": {"detectors": [DEEPEST, PROFILE]},
    "deepest, profile, sum": {"detectors": [DEEPEST, PROFILE], "fusion": "sum"},
    "deepest, profile with a look": {"detectors": [DEEPEST, LOOK]},
    "deepest, profile with a look, sum": {"detectors": [DEEPEST, LOOK], "fusion": "sum"},
    "all three": {"detectors": DEFAULT},
    "all three, sum": {"detectors": DEFAULT, "fusion": "sum"},
    "bands, profile, half with a look": {"detectors": [BANDS, PROFILE, LOOK], **HALF},
    "bands, profile, half disagreement": {"detectors": [BANDS, PROFILE, MOVED], **HALF},
    "deepest, profile, half with a look": {"detectors": [DEEPEST, PROFILE, LOOK], **HALF},
    "profile, half with a look": {"detectors": [PROFILE, LOOK], **HALF},
    "profile, half disagreement": {"detectors": [PROFILE, MOVED], **HALF},
    "the default": {"detectors": DEFAULT, **HALF},
}
NOISE, LIGHT = "sign_noise(eps=0.01)", "white_balance(severity=1)"
HARMLESS = (NOISE, "jpeg(quality=90)", "grey_level")
TOLERANT: Mapping[str, tuple[str, Sequence[str]]] = {
    "profile with a look, tolerating noise": ("profile with a look", (NOISE,)),
    "profile with a look, tolerating light": ("profile with a look", (LIGHT,)),
    "the default, tolerating noise": ("the default", (NOISE,)),
    "the default, tolerating light": ("the default", (LIGHT,)),
    "the default, tolerating the harmless": ("the default", HARMLESS),
}
"""By name: which of the monitors, and the changes that count as clean for it."""
SOME = 25


class Copies:
    """Frames, each beside copies with changes; every set of changes is read once."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.read: dict[Sequence[str], Readings] = {(): seen.clean}

    def beside(self, frames: Tensor, changes: Sequence[str]) -> Readings:
        """Readings of these frames and their copies."""
        if changes not in self.read:
            source = Tolerating(self.seen.frames, tolerated(changes), seed=self.seen.config["seed"])
            self.read[changes] = self.seen.monitor.read(source, batch_size=4, progress=told)
        each = 1 + len(changes)
        return self.read[changes].subset((each * frames[:, None] + torch.arange(each)).flatten())

    def alone(self, frames: Tensor, change: str) -> Readings:
        return self.beside(frames, (change,)).subset(torch.arange(1, 2 * len(frames), 2))


def judged(
    seen: Seen, copies: Copies, settings: Mapping[str, Any], changes: Sequence[str], fold: Tensor, count: int | None
) -> dict[str, Any]:
    """Mean AUROC and alarms of one kind of monitor: each fold by one fitted to `count` of the others' frames, or to
    all."""
    scores = torch.zeros(len(fold), dtype=torch.float64)
    made = {name: torch.zeros(len(seen.chosen), dtype=torch.float64) for name in seen.odd}
    alarms: list[float] = []
    flagged = dict.fromkeys(HARMLESS, 0)
    for number in sorted(set(fold.tolist())):
        inside, outside = (fold == number).nonzero()[:, 0], (fold != number).nonzero()[:, 0]
        if count is not None:
            outside = outside[torch.tensor(evenly(len(outside), count))]
        monitor = Monitor(seen.monitor.backbone, **settings, seed=0).fit(copies.beside(outside, changes))
        monitor.calibrate(false_alarm_rate=RATE)
        scores[inside] = monitor.score_of(seen.clean.subset(inside)).double()
        alarms.append(monitor.calibration.flagged(scores[inside], RATE).double().mean().item())
        for change in HARMLESS:
            changed = monitor.score_of(copies.alone(inside, change))
            flagged[change] += int(monitor.calibration.flagged(changed, RATE).sum())
        of_fold = (fold[seen.chosen] == number).nonzero()[:, 0]
        for name, readings in seen.odd.items():
            made[name][of_fold] = monitor.score_of(readings.subset(of_fold)).double()
    areas = {name: round(auroc(scores, each), 4) for name, each in made.items()}
    return {
        "auroc": areas, "mean_auroc": round(sum(areas.values()) / len(areas), 4),
        "alarms": [round(share, 4) for share in alarms],
        "harmless": {change: round(number / len(fold), 4) for change, number in flagged.items()},
    }  # fmt: skip


def tried(options: argparse.Namespace) -> dict[str, Any]:
    """The table, by monitor and by how it was fitted."""
    seen = Seen.of(options, (*DEFAULT, BANDS, LOOK))
    copies = Copies(seen)
    monitors: dict[str, tuple[Mapping[str, Any], Sequence[str]]] = {
        name: (settings, ()) for name, settings in MONITORS.items()
    }
    monitors |= {name: (MONITORS[of], changes) for name, (of, changes) in TOLERANT.items()}
    found: dict[str, Any] = {}
    for name, (settings, changes) in monitors.items():
        for kind, fold in seen.folds.items():
            for count in (None, SOME):
                what = kind if count is None else f"{kind}, {count} frames"
                found.setdefault(name, {})[what] = judged(seen, copies, settings, changes, fold, count)
        print(f"{name}: {[each['mean_auroc'] for each in found[name].values()]}", flush=True)
    return {"config": seen.config, "monitors": found}


def table(results: Mapping[str, Any]) -> str:
    kinds = list(next(iter(results["monitors"].values())))
    lines = [
        "mean AUROC over the pseudo-anomalies; the largest share of a fold's clean frames, and the largest of frames "
        f"with one of the harmless changes, that is flagged at {results['config']['rate']:.0%}",
        f"{'':38}" + "".join(f"{kind:>23}" for kind in kinds),
    ]
    for name, found in results["monitors"].items():
        cells = [
            f"{each['mean_auroc']:.3f} {max(each['alarms']):7.1%} {max(each['harmless'].values()):6.1%}"
            for each in found.values()
        ]
        lines.append(f"{name:38}" + "".join(f"{cell:>23}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main(tried, table, __doc__, HERE / "fusions.json")
