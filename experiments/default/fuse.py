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
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from choose import EVERY, FOLDS, RATE, WEIGHTS, pseudo_anomalies, told
from torch import Tensor

from inlier.backbones.base import Backbone
from inlier.backbones.espnet import espnet
from inlier.calibration import blocked_folds, group_folds
from inlier.datasets.load import open_images
from inlier.evaluation.metrics import auroc
from inlier.files import replacing
from inlier.images import TensorImages, evenly
from inlier.monitor import DEFAULT, ESCALATE, Monitor
from inlier.observation import Readings

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


def judged(
    backbone: Backbone,
    settings: Mapping[str, Any],
    clean: Readings,
    odd: Mapping[str, Readings],
    chosen: Tensor,
    fold: Tensor,
    count: int | None,
) -> dict[str, Any]:
    """Mean AUROC and alarms of one kind of monitor: each fold by one fitted to `count` of the others' frames.

    Args:
        chosen: the frames that the pseudo-anomalies were made of.
        fold: of every frame.
        count: None for all.
    """
    scores = torch.zeros(len(fold), dtype=torch.float64)
    made = {name: torch.zeros(len(chosen), dtype=torch.float64) for name in odd}
    alarms = []
    for number in sorted(set(fold.tolist())):
        inside, outside = (fold == number).nonzero()[:, 0], (fold != number).nonzero()[:, 0]
        if count is not None:
            outside = outside[torch.tensor(evenly(len(outside), count))]
        monitor = Monitor(backbone, **settings, seed=0).fit(clean.subset(outside)).calibrate(false_alarm_rate=RATE)
        scores[inside] = monitor.score_of(clean.subset(inside)).double()
        alarms.append(monitor.calibration.flagged(scores[inside], RATE).double().mean().item())
        of_fold = (fold[chosen] == number).nonzero()[:, 0]
        for name, readings in odd.items():
            made[name][of_fold] = monitor.score_of(readings.subset(of_fold)).double()
    areas = {name: round(auroc(scores, each), 4) for name, each in made.items()}
    return {
        "auroc": areas, "mean_auroc": round(sum(areas.values()) / len(areas), 4),
        "alarms": [round(share, 4) for share in alarms],
    }  # fmt: skip


def tried(options: argparse.Namespace) -> dict[str, Any]:
    """The table, by monitor and by how it was fitted."""
    backbone = espnet(options.data / WEIGHTS)
    batches = list(open_images(f"camvid:{options.data / 'camvid' / 'train'}", labelled=False).batches(16))
    frames = torch.cat([batch.images for batch in batches])
    drives = [group for batch in batches for group in batch.groups]
    chosen = torch.arange(0, len(frames), EVERY)
    reader = Monitor(backbone, seed=0)
    clean = reader.read(TensorImages(frames, groups=drives), batch_size=4, progress=told)
    odd = {
        name: reader.read(images, batch_size=4, progress=told)
        for name, images in pseudo_anomalies(backbone, frames, chosen, options.seed).items()
    }
    folds = {"blocks": blocked_folds(drives, block=options.block, folds=FOLDS), "drives": group_folds(drives)}
    found: dict[str, Any] = {}
    for name, settings in MONITORS.items():
        for kind, fold in folds.items():
            for count in (None, SOME):
                what = kind if count is None else f"{kind}, {count} frames"
                found.setdefault(name, {})[what] = judged(backbone, settings, clean, odd, chosen, fold, count)
        print(f"{name}: {[each['mean_auroc'] for each in found[name].values()]}", flush=True)
    config = {"frames": len(frames), "every": EVERY, "block": options.block, "folds": FOLDS, "rate": RATE}
    return {"config": config | {"seed": options.seed}, "monitors": found}


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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with camvid/ and weights/")
    parser.add_argument("--results", type=Path, default=HERE / "fusions.json")
    parser.add_argument("--block", type=int, default=10, help="neighbouring frames that are held out together")
    parser.add_argument("--seed", type=int, default=0, help="of the pseudo-anomalies")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    results = tried(options)
    with replacing(options.results) as path:
        path.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
