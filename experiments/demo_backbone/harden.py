"""Harden the network of the demo: a short adversarial fine-tune, beside an equally long clean one.

    python experiments/demo_backbone/harden.py --out OUT

writes the weights of `street_hardened` into the package and what was measured to harden.json beside this file; OUT
holds what a run that was ended goes on with. Scenes to train on, to choose with and to report on come from seeds of
their own ranges. What is chosen is how far to go from the original's weights to the hardened ones: as far as costs at
most three points of mIoU on the scenes to choose with.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from train import HELD_OUT_SEED, TRAIN_SEED, halved, intersection_over_union, scenes

from inlier.attacks.hardening import Hardening, Pool, blended, harden
from inlier.backbones.base import Backbone
from inlier.backbones.street import street_espnet
from inlier.datasets.scenes.worlds import TRAINING_WORLDS, UNSEEN_WORLDS
from inlier.evaluation.hardening import changed
from inlier.files import replacing, write_tensors

HERE = Path(__file__).parent
WEIGHTS = HERE.parents[1] / "src" / "inlier" / "backbones" / "weights" / "street_hardened.safetensors"
CHOOSE_SEED = 30_000_000
GREY_LEVELS = (1.0, 2.5, 4.0)
WAYS = (1.0, 0.8, 0.6, 0.4)
MOST_COST = 0.03


def mean_iou(backbone: Backbone, images: Tensor, labels: Tensor) -> float:
    return intersection_over_union(backbone.network, images, labels, backbone.mean, backbone.std).nanmean().item()


def rounded(backbone: Backbone) -> Backbone:
    """With the weights that a file of half precision gives back."""
    backbone.network.load_state_dict(halved(backbone.network))
    backbone.network.eval()
    return backbone


def chosen(original: Backbone, hardened: Backbone, options: argparse.Namespace) -> tuple[float, list[dict[str, float]]]:
    """The way to go, and what every way costs on the scenes to choose with."""
    held = [scenes((world,), options.choose, CHOOSE_SEED) for world in TRAINING_WORLDS]
    images, labels = (torch.cat(parts) for parts in zip(*held, strict=True))
    before = mean_iou(original, images, labels)
    found = [
        {"way": w, "cost": before - mean_iou(rounded(blended(original, hardened, w)), images, labels)} for w in WAYS
    ]
    cheap = [row["way"] for row in found if row["cost"] <= MOST_COST]
    if not cheap:
        raise SystemExit(f"No way costs at most {MOST_COST:g}: {found}")
    return max(cheap), found


def measured(backbone: Backbone, options: argparse.Namespace) -> dict[str, Any]:
    """mIoU by world, and what PGD that knows the network changes of its predictions on the training worlds."""
    backbone.network.eval()
    ious = {
        world: round(mean_iou(backbone, *scenes((world,), options.held_out, HELD_OUT_SEED)), 4)
        for world in (*TRAINING_WORLDS, *UNSEEN_WORLDS)
    }
    backbone.network.eval()
    attacked, _ = scenes(TRAINING_WORLDS, options.attacked, HELD_OUT_SEED)
    rows = changed(backbone, attacked.float() / 255, [level / 255 for level in GREY_LEVELS])
    return {
        "mean_iou": ious,
        "mean_iou_training_worlds": round(sum(ious[world] for world in TRAINING_WORLDS) / len(TRAINING_WORLDS), 4),
        "attacked": [{n: value if n == "eps" else round(value, 4) for n, value in row.items()} for row in rows],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the work, to go on with")
    parser.add_argument("--scenes", type=int, default=200, help="training scenes of each world")
    parser.add_argument("--choose", type=int, default=10, help="scenes of each world to choose with")
    parser.add_argument("--held-out", type=int, default=20, help="scenes of each world to report mIoU on")
    parser.add_argument(
        "--attacked", type=int, default=4, help="of these, how many of each training world are attacked"
    )
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--grey-levels", type=float, default=4.0, help="of the attacker to train against")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--results", type=Path, default=HERE / "harden.json")
    options = parser.parse_args()
    torch.set_num_threads(1)

    started = time.perf_counter()
    original = street_espnet()
    images, labels = scenes(TRAINING_WORLDS, options.scenes, TRAIN_SEED)
    names = tuple(f"scene {number}" for number in range(len(images)))
    pool = Pool(tuple(images), tuple(labels.short()), names, made=False)
    settings = Hardening(
        eps=options.grey_levels / 255, steps=options.steps, batch_size=options.batch, crop=(128, 192), balanced=True
    )
    options.out.mkdir(parents=True, exist_ok=True)
    made = harden(original, pool, settings, folder=options.out, progress=told)
    way, ways = chosen(original, made.hardened, options)
    networks = {
        "original": original,
        "control": rounded(made.control),
        "hardened": rounded(blended(original, made.hardened, way)),
    }
    report: dict[str, Any] = {
        "settings": asdict(settings),
        "config": {name: value for name, value in vars(options).items() if not isinstance(value, Path)},
        "ways": ways,
        "way": way,
        **{name: measured(backbone, options) for name, backbone in networks.items()},
    }
    best = max(report[name]["mean_iou_training_worlds"] for name in ("original", "control"))
    report["cost"] = round(best - report["hardened"]["mean_iou_training_worlds"], 4)
    report["seconds"] = round(time.perf_counter() - started)
    write_tensors(
        options.weights,
        {**halved(networks["hardened"].network), "mean": original.mean.flatten(), "std": original.std.flatten()},
        {"command": "python experiments/demo_backbone/harden.py", "config": json.dumps(report["config"])},
    )
    with replacing(options.results) as path:
        path.write_text(json.dumps(report, indent=2) + "\n")
    for name in networks:
        shares = ", ".join(f"{row['damage']:.1%} at {255 * row['eps']:g}/255" for row in report[name]["attacked"])
        print(f"{name:8}  mIoU {report[name]['mean_iou_training_worlds']:.3f}  pixels changed by PGD: {shares}")
    print(f"cost {100 * report['cost']:.1f} points of mIoU, way {way:g}")


def told(phase: str, done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        print(f"{phase}: {done} of {total}", flush=True)


if __name__ == "__main__":
    main()
