"""MC-dropout, with and without the fine-tune, beside the output scores, on CamVid's test frames.

    python experiments/mc_dropout/evaluate.py --data DATA --finetuned espnet_dropout.safetensors

DATA holds camvid/ and weights/. Clean test frames are told from the same frames in fog, upside down and with noise,
rounded to 8 bit; the anomalous ones are the positive class. Writes results.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inlier.backbones.base import Backbone
from inlier.backbones.espnet import espnet
from inlier.datasets.folder import ImageFolder
from inlier.datasets.labels import label_map
from inlier.detectors.energy import Energy
from inlier.detectors.max_softmax import MaxSoftmax
from inlier.detectors.mc_dropout import MCDropout
from inlier.evaluation.metrics import ConfusionMatrix, aupr, auroc, fpr_at_tpr
from inlier.files import replacing
from inlier.perturbations.base import to_8_bit
from inlier.perturbations.table import PERTURBATIONS
from inlier.probe import Probe

HERE = Path(__file__).parent
WEIGHTS = Path("weights") / "espnet_decoder_camvid_p2_q8.safetensors"
PERTURBED = ("fog", "vertical_flip", "gaussian_noise")
METRICS = {"auroc": auroc, "aupr": aupr, "fpr95": fpr_at_tpr}


@torch.no_grad()
def scores(backbone: Backbone, images: Tensor) -> dict[str, list[float]]:
    """Of every detector, one an image. Both ways to pool MC-dropout's maps are read off the same passes."""
    observation = Probe(backbone)(images)
    variance = MCDropout().variance(observation).flatten(1)
    return {
        "mc_dropout": variance.amax(1).tolist(),
        "mc_dropout(pool='mean')": variance.mean(1).tolist(),
        "max_softmax": MaxSoftmax()(observation).tolist(),
        "energy": Energy()(observation).tolist(),
    }


def judged(name: str, backbone: Backbone, options: argparse.Namespace) -> dict[str, Any]:
    """What becomes of a network's mean IoU, and how well its scores tell clean from perturbed frames."""
    folder = ImageFolder(options.data / "camvid" / "test")
    matrix = ConfusionMatrix(len(backbone.task.classes), backbone.task.void)
    changes = {kind: PERTURBATIONS[kind](severity=options.severity) for kind in PERTURBED}
    generator = torch.Generator().manual_seed(options.seed)
    found: dict[str, dict[str, list[float]]] = {}
    done, started = 0, time.perf_counter()
    for batch in folder.batches(options.batch):
        if options.frames is not None and done >= options.frames:
            break
        truth = torch.stack([label_map(options.data / "camvid" / "testannot", name) for name in batch.names])
        matrix.update(backbone.predict(batch.images), truth)
        shown = {"clean": batch.images}
        shown |= {kind: to_8_bit(change(batch.images, generator)) for kind, change in changes.items()}
        for kind, images in shown.items():
            for detector, values in scores(backbone, images).items():
                found.setdefault(detector, {}).setdefault(kind, []).extend(values)
        done += len(batch.names)
        print(f"{name}: {done} of {len(folder)} frames, {time.perf_counter() - started:.0f} s", flush=True)
    rows = {
        detector: {
            kind: {metric: round(measure(values["clean"], values[kind]), 4) for metric, measure in METRICS.items()}
            for kind in PERTURBED
        }
        for detector, values in found.items()
    }
    return {"frames": done, "mean_iou": round(matrix.mean_iou(), 4), "detectors": rows}


def told(results: dict[str, Any]) -> str:
    """The results as a table."""
    lines = []
    for name, network in results["networks"].items():
        lines.append(f"{name}: mIoU {network['mean_iou']:.3f} on {network['frames']} clean frames")
        for detector, rows in network["detectors"].items():
            cells = "  ".join(
                f"{kind} {row['auroc']:.3f} {row['aupr']:.3f} {row['fpr95']:.3f}" for kind, row in rows.items()
            )
            lines.append(f"  {detector:24s} {cells}")
    return "\n".join(["AUROC, AUPR, FPR95", *lines])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with camvid/ and weights/")
    parser.add_argument("--finetuned", type=Path, help="what finetune.py wrote; without it, the published weights only")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--severity", type=int, default=1, help="of the perturbations")
    parser.add_argument("--frames", type=int, help="about so many frames only, to try it out")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of the perturbations")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    networks = {"published": espnet(options.data / WEIGHTS)}
    if options.finetuned is not None:
        networks["fine-tuned"] = espnet(options.finetuned)
    config = {name: getattr(options, name) for name in ("severity", "frames", "batch", "seed")}
    detector = MCDropout()
    config |= {"rate": detector.look.rate, "passes": detector.draws, "dropout_seed": detector.seed}
    results = {
        "config": config,
        "networks": {name: judged(name, network, options) for name, network in networks.items()},
    }
    with replacing(options.results) as path:
        path.write_text(json.dumps(results, indent=2) + "\n")
    print(told(results))


if __name__ == "__main__":
    main()
