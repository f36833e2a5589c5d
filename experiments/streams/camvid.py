"""Streams on CamVid drives: alarms and drift on clean drives, from a known to an unknown drive, and when fog comes up.

    python experiments/streams/camvid.py --data DATA

DATA holds camvid/ and weights/. The monitors, the default one and some of a single detector, are fitted to the train
drives; everything that is chosen comes from these. Frames are a second apart. Writes results.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inlier.backbones.espnet import espnet
from inlier.calibration import Calibration, members
from inlier.datasets.folder import ImageFolder
from inlier.files import write_bytes
from inlier.monitor import Monitor
from inlier.perturbations.base import to_8_bit
from inlier.perturbations.table import PERTURBATIONS
from inlier.streams.alarm import AlarmRule
from inlier.streams.false_alarms import FalseAlarms
from inlier.streams.martingale import ConformalMartingale
from inlier.streams.stream import Stream

HERE = Path(__file__).parent
WEIGHTS = Path("weights") / "espnet_decoder_camvid_p2_q8.safetensors"
RATE = 0.05
FRAME_RATE = 1.0
KNOWN, UNKNOWN = "0001TP", "Seq05VD"
DEFAULT = "default"
DETECTORS = ("mahalanobis", "energy", "max_softmax", "entropy")
SHUFFLES = 1000


def scored(default: Monitor, monitor: Monitor, folder: ImageFolder) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Scores of the default and of every detector by drive and weather, in the order of the frames."""
    fog = PERTURBATIONS["fog"](severity=1)
    generator = torch.Generator().manual_seed(0)
    found: dict[str, dict[str, dict[str, list[Tensor]]]] = {}
    with torch.no_grad():
        for batch in folder.batches(1):
            shown = {"clear": batch.images, "fog": to_8_bit(fog(batch.images, generator))}
            for weather, images in shown.items():
                for detector, score in {DEFAULT: default.score(images), **monitor.scores(images)}.items():
                    drives = found.setdefault(detector, {})
                    drives.setdefault(batch.groups[0], {}).setdefault(weather, []).append(score.double())
    return {
        detector: {drive: {w: torch.cat(parts) for w, parts in weathers.items()} for drive, weathers in drives.items()}
        for detector, drives in found.items()
    }


def alarms_on_clean(stream: Stream, clean: Tensor, groups: Sequence[str]) -> list[dict[str, Any]]:
    """Of every rule of two windows: alarms seen on the train drives, and how many there would be if independent."""
    rows = []
    for window in (5, 10):
        for needed in range(1, window + 1):
            found = FalseAlarms.of(stream.begun_anew(rule=AlarmRule(needed, window)), clean, groups)
            rows.append(
                {
                    "needed": needed,
                    "window": window,
                    "frames_over": found.over,
                    "alarms": found.alarms,
                    "alarms_if_independent": found.if_independent * found.frames,
                    "at_most_per_hour": found.at_most_per_hour(FRAME_RATE),
                }
            )
    return rows


def drift_on_clean(clean: Tensor, groups: Sequence[str], every: int) -> dict[str, Any]:
    """The largest capital that each train drive wins when the others are the reference; none of it is meant."""
    largest = {}
    for drive, places in members(groups).items():
        others = torch.tensor([place for place, group in enumerate(groups) if group != drive])
        reference, rest = clean[others], [groups[place] for place in others.tolist()]
        stream = Stream(Calibration().fit(reference), RATE, reference, rest, drift_every=every)
        stream.update(clean[places])
        largest[drive] = stream.martingale.log_largest / math.log(10)
    return {"every": every, "log10_largest_capital": largest}


def drift_shuffled(clean: Tensor, chances: Sequence[float]) -> dict[str, float]:
    """The share of orders drawn by lot in which drift is declared: the guarantee, on these very scores."""
    generator = torch.Generator().manual_seed(0)
    largest = []
    for number in range(SHUFFLES):
        order = clean[torch.randperm(len(clean), generator=generator)].tolist()
        martingale = ConformalMartingale(order[:100], seed=number)
        for score in order[100:]:
            martingale.update(score)
        largest.append(martingale.log_largest)
    return {str(chance): sum(value >= -math.log(chance) for value in largest) / SHUFFLES for chance in chances}


def told(stream: Stream, scores: Tensor) -> dict[str, Any]:
    """What a stream says of scores."""
    moments = stream.update(scores)
    return {
        "frames": len(moments),
        "flagged": sum(moment.flagged for moment in moments),
        "over": sum(moment.over for moment in moments),
        "events": [[moment.frame, event] for moment in moments for event in moment.events],
        "log10_largest_capital": stream.martingale.log_largest / math.log(10),
    }


def main() -> None:
    """Fit, score, watch, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    network, train = espnet(options.data / WEIGHTS), ImageFolder(options.data / "camvid" / "train")
    made = [Monitor(network, detectors, seed=0).fit(train) for detectors in (None, DETECTORS)]
    default, monitor = (each.calibrate(false_alarm_rate=RATE) for each in made)
    assert monitor.clean is not None
    assert default.clean is not None
    assert default.clean.names == monitor.clean.names
    groups = monitor.clean.groups
    clean_scores = {DEFAULT: default.calibration_scores, **monitor.clean.scores}
    test = scored(default, monitor, ImageFolder(options.data / "camvid" / "test"))
    results: dict[str, Any] = {"clean_frames": dict.fromkeys(groups, 0), "detectors": {}}
    for group in groups:
        results["clean_frames"][group] += 1
    for detector, drives in test.items():
        clean = clean_scores[detector].double()
        known, foggy, unknown = drives[KNOWN]["clear"], drives[KNOWN]["fog"], drives[UNKNOWN]["clear"]
        half = len(known) // 2
        streams = {
            "known drive": known,
            "known, then unknown drive": torch.cat([known, unknown]),
            "unknown drive": unknown,
            f"fog from frame {half} of the known drive on": torch.cat([known[:half], foggy[half:]]),
            "the known drive, then again in fog": torch.cat([known, foggy]),
        }
        calibration = Calibration().fit(clean)
        length = Stream(calibration, RATE, clean, groups).drift_every
        row: dict[str, Any] = {"correlation_length": length, "streams": []}
        for adapt in (0, 25):
            row[f"alarms_on_clean, adapt {adapt}"] = alarms_on_clean(
                Stream(calibration, RATE, clean, groups, adapt=adapt), clean, groups
            )
            for name, scores in streams.items():
                for every in (1, length):
                    stream = Stream(calibration, RATE, clean, groups, adapt=adapt, drift_every=every)
                    settings = {"stream": name, "adapt": adapt, "drift_every": every, "alarm": str(stream.alarm.rule)}
                    row["streams"].append(settings | told(stream, scores))
        row["drift_on_clean"] = [drift_on_clean(clean, groups, every) for every in sorted({1, 3, length, 2 * length})]
        if detector == DEFAULT:
            row["drift_declared_in_shuffled_clean_scores"] = drift_shuffled(clean, (0.05, 0.01, 0.001))
        results["detectors"][detector] = row
    write_bytes(HERE / "results.json", (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
