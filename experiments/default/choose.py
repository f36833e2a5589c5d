"""Which detectors should a monitor have when nobody chooses? Clean CamVid frames and made-up anomalies decide.

    python experiments/default/choose.py --data DATA

DATA holds camvid/ and weights/. Only the 268 training frames are looked at, of three drives. Every fourth is made into
pseudo-anomalies that are in no evaluation: swapped colour channels, mixed frames, shuffled tiles, scattered pixels,
mixed colours, few grey levels, a pasted piece, a mirrored half, and gradient steps that make the network surer or less
sure. Each detector is fitted without some blocks of frames, or without a whole drive, and scores these and what was
made of them: AUROC by pseudo-anomaly, and alarms on the drive that was left out, with the threshold at 5 % from the
others by the same kind of folds. Writes results.json beside this file.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from inlier.attacks.constraints import LinfBall
from inlier.attacks.engine import Attack
from inlier.attacks.objectives import Context
from inlier.attacks.steppers import SignStep
from inlier.backbones.base import Backbone
from inlier.backbones.espnet import espnet
from inlier.calibration import Calibration, blocked_folds, group_folds
from inlier.datasets.load import open_images
from inlier.detectors.base import Detector
from inlier.evaluation.metrics import auroc
from inlier.files import replacing
from inlier.images import TensorImages
from inlier.monitor import Monitor
from inlier.observation import Observation, Readings
from inlier.perturbations.base import to_8_bit
from inlier.probe import Probe
from inlier.types import Images, Scores

HERE = Path(__file__).parent
WEIGHTS = Path("weights") / "espnet_decoder_camvid_p2_q8.safetensors"
CANDIDATES = (
    "mahalanobis",
    "mahalanobis(normalise='rms')",
    "mahalanobis(statistics=('std',))",
    "mahalanobis(statistics=('mean', 'std'), normalise='rms')",
    "mahalanobis(grid=(1, 1), normalise='rms')",
    "mahalanobis(taps='deepest', normalise='rms')",
    "mahalanobis(taps='*.c1.conv', normalise='rms')",
    "max_softmax",
    "energy",
    "entropy",
    "disagreement",
    "disagreement(look='rescale')",
    "profile",
    "profile(look='jpeg')",
    "profile(look='rescale')",
)
EVERY = 4
"""Every so many frames are made into pseudo-anomalies."""
FOLDS = 5
RATE = 0.05


def pseudo_anomalies(backbone: Backbone, frames: Images, chosen: Tensor, seed: int) -> dict[str, Images]:
    """By name, what is made of the chosen ones of the frames."""
    generator = torch.Generator().manual_seed(seed)
    some, count = frames[chosen], len(chosen)
    height, width = frames.shape[-2:]
    others = frames[torch.randperm(len(frames), generator=generator)[:count]]
    order = torch.randperm(16, generator=generator)
    tiles = some.unfold(2, height // 4, height // 4).unfold(3, width // 4, width // 4).flatten(2, 3)[:, :, order]
    rows = tiles.unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5)  # type: ignore[no-untyped-call]
    down, across = (torch.randint(-2, 3, (count, height, width), generator=generator) for _ in range(2))
    from_row = (torch.arange(height)[:, None] + down).clamp(0, height - 1)
    from_column = (torch.arange(width) + across).clamp(0, width - 1)
    mixer = torch.eye(3) + 0.15 * torch.randn(count, 3, 3, generator=generator)
    pasted = some.clone()
    tall, wide = height // 3, width // 3
    for i in range(count):
        y, from_y = torch.randint(height - tall, (2,), generator=generator).tolist()
        x, from_x = torch.randint(width - wide, (2,), generator=generator).tolist()
        pasted[i, :, y : y + tall, x : x + wide] = others[i, :, from_y : from_y + tall, from_x : from_x + wide]
    half = some[:, :, : height // 2]
    made = {
        "swapped channels": some.flip(1),
        "mixed frames": 0.7 * some + 0.3 * others,
        "shuffled tiles": rows.flatten(4, 5).flatten(2, 3),
        "scattered pixels": torch.stack([some[i][:, from_row[i], from_column[i]] for i in range(count)]),
        "mixed colours": torch.einsum("nij,njhw->nihw", mixer, some).clamp(0, 1),
        "eight grey levels": ((255 * some).div(32, rounding_mode="floor") * 32 + 16) / 255,
        "pasted piece": pasted,
        "mirrored half": torch.cat([half, half.flip(2)], dim=2),
        "less sure": stepped(backbone, some, entropy, seed),
        "surer": stepped(backbone, some, certainty, seed),
    }
    return {name: to_8_bit(images) for name, images in made.items()}


def entropy(observation: Observation, context: Context) -> Scores:
    """The mean entropy of the prediction."""
    surprise = observation.output.log_softmax(1)
    return -(surprise.exp() * surprise).sum(1).mean((1, 2))


def certainty(observation: Observation, context: Context) -> Scores:
    return -entropy(observation, context)


def stepped(backbone: Backbone, images: Images, objective: Any, seed: int) -> Images:
    """Three sign steps of .0015 up the objective, at most .003 from the image."""
    attack, probe = Attack(LinfBall(0.003), SignStep(0.0015), 3), Probe(backbone)
    parts = torch.split(images, 4)
    return torch.cat([attack(probe, part, (objective,), seed=seed).images for part in parts])


class Tried:
    """One detector, fitted without some frames at a time."""

    def __init__(self, blank: Detector, name: str, clean: Readings, odd: dict[str, Readings], chosen: Tensor) -> None:
        self.blank, self.recorded, self.clean, self.odd, self.chosen = blank, f"score:{name}", clean, odd, chosen

    def fitted(self, frames: Tensor) -> Detector:
        detector = copy.deepcopy(self.blank)
        return detector.fit(self.clean.subset(frames), seed=0) if detector.learns else detector

    def scores(self, detector: Detector, readings: Readings) -> Scores:
        if not detector.learns:
            return readings.values[self.recorded].double()
        with torch.no_grad():
            return torch.cat([detector(seen).double() for seen in readings.observations()])

    def held_out(self, fold: Tensor, among: Tensor) -> Scores:
        """Scores of the frames `among`, each by a detector fitted to the other folds of these."""
        scores = torch.full((len(fold),), torch.nan, dtype=torch.float64)
        for number in sorted(set(fold[among].tolist())):
            inside, outside = among[fold[among] == number], among[fold[among] != number]
            scores[inside] = self.scores(self.fitted(outside), self.clean.subset(inside))
        return scores[among]

    def by_pseudo_anomaly(self, fold: Tensor) -> dict[str, float]:
        """AUROC; every frame, and what was made of it, is scored by the same detector, which saw neither."""
        everything = torch.arange(len(fold))
        clean, odd = self.held_out(fold, everything), {name: torch.zeros(len(self.chosen)) for name in self.odd}
        for number in sorted(set(fold.tolist())):
            detector = self.fitted(everything[fold != number])
            inside = (fold[self.chosen] == number).nonzero()[:, 0]
            for name, readings in self.odd.items():
                odd[name][inside] = self.scores(detector, readings.subset(inside)).float()
        return {name: round(auroc(clean, scores), 4) for name, scores in odd.items()}

    def alarms_elsewhere(self, fold: Tensor, drives: Sequence[str]) -> dict[str, float]:
        """The share of each drive flagged by a monitor of the other drives, calibrated on these by such folds."""
        alarms = {}
        for drive in dict.fromkeys(drives):
            there = torch.tensor([other == drive for other in drives])
            rest, inside = (~there).nonzero()[:, 0], there.nonzero()[:, 0]
            calibration = Calibration().fit(self.held_out(fold, rest))
            scores = self.scores(self.fitted(rest), self.clean.subset(inside))
            alarms[drive] = round(calibration.flagged(scores, RATE).double().mean().item(), 4)
        return alarms


@dataclass(frozen=True)
class Seen:
    """What a monitor with all detectors that are tried has read.

    Args:
        monitor: not fitted.
        frames: of training, by drives.
        clean: of these.
        odd: by name, of what was made of the chosen ones.
        chosen: which these are.
        folds: of the frames, by kind.
        config: what was done.
    """

    monitor: Monitor
    frames: TensorImages
    clean: Readings
    odd: dict[str, Readings]
    chosen: Tensor
    folds: dict[str, Tensor]
    config: dict[str, Any]

    @classmethod
    def of(cls, options: argparse.Namespace, detectors: Sequence[str]) -> Self:
        """Frames and pseudo-anomalies, read for the detectors."""
        backbone = espnet(options.data / WEIGHTS)
        batches = list(open_images(f"camvid:{options.data / 'camvid' / 'train'}", labelled=False).batches(16))
        frames = torch.cat([batch.images for batch in batches])
        drives = [group for batch in batches for group in batch.groups]
        if options.frames is not None:
            kept = torch.arange(len(frames))[:: max(1, len(frames) // options.frames)]
            frames, drives = frames[kept], [drives[i] for i in kept.tolist()]
        chosen = torch.arange(0, len(frames), EVERY)
        monitor = Monitor(backbone, list(detectors), seed=0)
        source = TensorImages(frames, groups=drives)
        clean = monitor.read(source, batch_size=4, progress=told)
        odd = {
            name: monitor.read(images, batch_size=4, progress=told)
            for name, images in pseudo_anomalies(backbone, frames, chosen, options.seed).items()
        }
        folds = {"blocks": blocked_folds(drives, block=options.block, folds=FOLDS), "drives": group_folds(drives)}
        config = {"frames": len(frames), "every": EVERY, "block": options.block, "folds": FOLDS, "rate": RATE}
        return cls(monitor, source, clean, odd, chosen, folds, config | {"seed": options.seed})


def chosen_by(options: argparse.Namespace) -> dict[str, Any]:
    """The table, by detector and kind of folds."""
    seen = Seen.of(options, CANDIDATES)
    found: dict[str, Any] = {}
    for name, blank in zip(CANDIDATES, seen.monitor.detectors.values(), strict=True):
        assert isinstance(blank, Detector)
        tried = Tried(blank, name, seen.clean, seen.odd, seen.chosen)
        for kind, fold in seen.folds.items():
            areas = tried.by_pseudo_anomaly(fold)
            mean = round(sum(areas.values()) / len(areas), 4)
            elsewhere = tried.alarms_elsewhere(fold, seen.clean.groups)
            found.setdefault(name, {})[kind] = {"auroc": areas, "mean_auroc": mean, "alarms_elsewhere": elsewhere}
    return {"config": seen.config, "detectors": found}


def told(phase: str, done: int, total: int) -> None:
    if done == total:
        print(f"{phase}: {done}", flush=True)


def table(results: dict[str, Any]) -> str:
    kinds = len(next(iter(results["detectors"].values()))["blocks"]["auroc"])
    lines = [
        f"mean AUROC over {kinds} pseudo-anomalies, and the largest share of a drive that is flagged at "
        f"{results['config']['rate']:.0%} by a monitor of the others",
        f"{'':58}{'blocks held out':>20}{'drives held out':>20}",
    ]
    for name, found in results["detectors"].items():
        cells = [f"{f['mean_auroc']:.3f} {max(f['alarms_elsewhere'].values()):7.1%}" for f in found.values()]
        lines.append(f"{name:58}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def main(
    what: Callable[[argparse.Namespace], dict[str, Any]],
    shown: Callable[[dict[str, Any]], str],
    description: str | None,
    results: Path,
) -> None:
    """Carry out an experiment with the options of the command line, write what it gives and print its table."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with camvid/ and weights/")
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--frames", type=int, help="about so many frames only, to try it out")
    parser.add_argument("--block", type=int, default=10, help="neighbouring frames that are held out together")
    parser.add_argument("--seed", type=int, default=0, help="of the pseudo-anomalies")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = what(options)
    with replacing(options.results) as path:
        path.write_text(json.dumps(found, indent=1) + "\n")
    print(shown(found))


if __name__ == "__main__":
    main(chosen_by, table, __doc__, HERE / "results.json")
