"""Results of an evaluation as `inlier evaluate` leaves them, made up but plausible, to test what is told of them."""

import base64
import io
import itertools
import json
import random

from PIL import Image, ImageDraw

DRIVES = {"0001TP": 62, "Seq05VD": 55}
SEVERITIES = (1, 3, 5)
CHANGES = {"fog": 0.45, "frost": 0.3, "gaussian_noise": 0.2}
STRENGTH = {"daain": 0.9, "mahalanobis": 1.2, "max_softmax": 0.4}


def counts(hits, images, spread=0.08):
    rate = hits / images
    return {"hits": hits, "images": images, "interval": [max(0.0, rate - spread), min(1.0, rate + spread)]}


def made_up(seed=0, pictures=True):
    """A results dict: 3 monitors and an ablation of 2, 2 keys, 2 drives; every part of the format is there."""
    dice = random.Random(seed)
    sets = [entry("camvid_test", "clean", "CamVid test", groups=DRIVES)]
    for change, harm in CHANGES.items():
        sets += [
            entry(f"{change}_{s}", "perturbation", f"{change.replace('_', ' ')}, severity {s}", change=change,
                  severity=s, paper=s == 1 and change != "gaussian_noise", changed=harm * s / 5)
            for s in SEVERITIES
        ]  # fmt: skip
    sets += [
        entry("vertical_flip", "perturbation", "upside down", change="vertical_flip", paper=True, changed=0.88),
        entry("fgsm", "attack", "FGSM to road", settings={"eps": 0.02}, paper=True, changed=0.75),
        entry("ifgsm", "attack", "iterated FGSM <untargeted>", settings={"eps": 0.01, "steps": 5}, changed=0.81),
        entry("gd_uap", "universal", "GD-UAP", settings={"eps": 10 / 255}, paper=True, changed=0.36),
        entry("jpeg_90", "control", "JPEG 90 & no more", changed=0.01),
        entry("xrays", "ood", "X-ray pictures", images=24, changed=None),
    ]
    monitors = [
        monitor("mahalanobis", "banded Mahalanobis", "ours", seeds=[0]),
        monitor("daain", "DAAIN", "paper", seeds=[0, 1]),
        monitor("max_softmax", "MSP", "baseline", seeds=[0]),
        monitor("daain_8", "8 blocks", "ablation: blocks", seeds=[0], thresholds=False),
        monitor("daain_16", "16 blocks", "ablation: blocks", seeds=[0, 1], thresholds=False),
    ]
    results = {
        "format": 1, "inlier": "0.1.0", "title": "DAAIN on CamVid, made up",
        "command": "inlier evaluate experiments/daain_camvid.toml --out results/daain_camvid",
        "config": {"backbone": "espnet:{data}/weights/e.safetensors", "rates": [0.01, 0.05, 0.1], "seeds": [0, 1]},
        "seconds": {"reading": 61.2, "fitting": 240.5, "changes": 611.0}, "threads": 2,
        "network": {"name": "espnet", "fingerprint": "3f9c2ab17d50e8c4", "parameters": 364_000, "flops": 3.4e9,
                    "milliseconds": 30.4, "classes": ["sky", "road", "car"], "size": [360, 480]},
        "fitted_to": {"images": 268, "groups": {"0001TP": 45, "0006R0": 74, "0016E5": 149}},
        "main": "mahalanobis", "monitors": monitors, "sets": sets, "rows": [], "summary": [], "pooled": [],
        "held_out": [], "against_damage": [], "curves": {"roc": [], "pr": []}, "figures": {}, "worst": [],
        "pictures": {}, "targets": [
            {"text": "AUROC of DAAIN over the paper's changes", "wanted": 0.753, "value": 0.94, "met": True},
            {"text": "false alarms, nominal 5 %, every drive", "wanted": "at most 10 %", "value": "16 %", "met": False},
        ],
        "notes": ["Frames of <one drive> follow one another."],
    }  # fmt: skip
    for m in monitors:
        for tried in sets:
            rows = [row(dice, m, key, tried) for key in m["seeds"]]
            results["rows"] += rows
            if tried["kind"] != "clean":
                results["summary"].append(summary(m, tried["name"], rows))
        fill_monitor(dice, results, m)
    if pictures:
        illustrate(dice, results)
    json.dumps(results, allow_nan=False)  # strict JSON, as the format demands
    return results


def entry(
    name, kind, label, change="", severity=None, settings=None, paper=False, images=117, groups=None, changed=0.0
):
    harmless = kind in ("clean", "ood")
    return {
        "name": name, "label": label, "kind": kind, "change": change or name, "severity": severity,
        "settings": settings or {}, "paper": paper, "images": images, "groups": groups or {"all": images},
        "changed": None if harmless else changed,
        "changed_images": None if harmless else int(images * min(1, 2 * changed)),
        "aacc": None if harmless else changed, "aiou": None if harmless else min(1.0, changed * 1.2),
        "miou": 0.572 * (1 - (changed or 0)) if kind != "ood" else None, "linf": None if harmless else 0.02,
    }  # fmt: skip


def monitor(name, label, family, seeds, thresholds=True):
    return {
        "name": name, "label": label, "family": family, "detectors": [name], "fusion": "max", "seeds": seeds,
        "rule": "order_statistic", "rates": [0.01, 0.05, 0.1],
        "thresholds": {str(s): {"0.05": 3.0, "0.1": 2.0, "0.01": 9.0} if thresholds else {} for s in seeds},
        "clean_scores": "cross-fitted over blocks of 10 neighbouring images",
        "cost": {"parameters": 256_976, "flops": 1.03e6, "milliseconds": 31.2, "overhead": 1.026, "passes": 1},
    }  # fmt: skip


def row(dice, m, key, tried):
    made = {"monitor": m["name"], "seed": key, "set": tried["name"]}
    strength = STRENGTH.get(m["name"], 0.8)
    n = tried["images"]
    if tried["kind"] == "clean":
        made["by_group"] = {
            drive: {f"{rate:g}": counts(min(size, int(size * rate * (2 + dice.random()))), size) for rate in m["rates"]}
            for drive, size in DRIVES.items()
        }
    else:
        harm = 1.0 if tried["changed"] is None else tried["changed"]
        auroc = min(1.0, 0.5 + harm * strength * (0.9 + 0.1 * dice.random()))
        made |= {"auroc": auroc, "auroc_interval": [max(0.0, auroc - 0.03), min(1.0, auroc + 0.03)],
                 "aupr": auroc * 0.98, "aupr_clean": auroc * 0.97, "fpr95": 1 - auroc}  # fmt: skip
        shares = {f"{rate:g}": min(1.0, harm * strength + rate) for rate in m["rates"]}
        if any(m["thresholds"].values()):
            damaged = tried["changed_images"] or 0
            made["flagged"] = {rate: counts(int(n * share), n) for rate, share in shares.items()}
            made["flagged_changed"] = {
                rate: counts(int(damaged * share), damaged) if damaged else {"hits": 0, "images": 0, "interval": None}
                for rate, share in shares.items()
            }
    return made


def summary(m, name, rows):
    def over(values):
        mean = sum(values) / len(values)
        std = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5 if len(values) > 1 else None
        return {"mean": mean, "std": std, "min": min(values), "max": max(values)}

    told = {metric: over([r[metric] for r in rows]) for metric in ("auroc", "aupr", "fpr95")}
    return {"monitor": m["name"], "set": name, "seeds": len(rows), **told}


def fill_monitor(dice, results, m):
    for key in m["seeds"]:
        auroc = 0.8 + 0.15 * dice.random()
        results["pooled"].append(
            {"monitor": m["name"], "seed": key, "over": "paper", "auroc": auroc,
             "auroc_interval": [auroc - 0.02, auroc + 0.02], "aupr": auroc, "fpr95": 1 - auroc, "images": 585}
        )  # fmt: skip
        if not any(m["thresholds"].values()):
            continue
        for group, size in results["fitted_to"]["groups"].items():
            results["held_out"].append(
                {"monitor": m["name"], "seed": key, "group": group, "images": size,
                 "flagged": {"0.05": counts(int(size * dice.random() * 0.6), size)}}
            )  # fmt: skip
        edges = [0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1]
        bins = []
        for low, high in itertools.pairwise(edges):
            images = 0 if low == 0.2 else 40
            found = (
                counts(int(images * min(1, high * 2)), images) if images else {"hits": 0, "images": 0, "interval": None}
            )
            bins.append({"from": low, "to": high, "flagged": found.pop("hits"), **found})
        results["against_damage"].append({"monitor": m["name"], "seed": key, "rate": 0.05, "bins": bins})
    for tried in results["sets"]:
        if tried["paper"]:
            power = 1 + 20 * (tried["changed"] or 0) * STRENGTH.get(m["name"], 0.8)
            grid = [n / 40 for n in range(41)]
            own = {"monitor": m["name"], "seed": m["seeds"][0], "set": tried["name"]}
            results["curves"]["roc"].append(own | {"fpr": grid, "tpr": [x ** (1 / power) for x in grid]})
            results["curves"]["pr"].append(own | {"recall": grid, "precision": [1 - x**power / 2 for x in grid]})


def illustrate(dice, results):
    paper = [tried["name"] for tried in results["sets"] if tried["paper"]]
    results["figures"] = {
        "likelihood": {
            "monitor": "daain",
            "edges": [-4 + 0.2 * n for n in range(41)],
            "counts": {name: [dice.randrange(12) for _ in range(40)] for name in ["camvid_test", *paper]},
        },
        "coactivation": {name: [[dice.gauss(0, 1) for _ in range(48)] for _ in range(48)] for name in paper},
    }
    for name in paper:
        results["pictures"][name] = {
            view: picture(dice) for view in ("before", "after", "difference", "predicted", "mask")
        } | {"image": "0001TP_f00001.png"}
    for n in range(12):
        results["worst"].append(
            {"monitor": "mahalanobis", "set": paper[n % len(paper)], "image": f"Seq05VD_f{n:05d}.png",
             "changed": 0.9 - n / 20, "p_value": 0.06 + n / 50, "before": picture(dice), "after": picture(dice),
             "predicted_before": picture(dice), "predicted_after": picture(dice)}
        )  # fmt: skip


def picture(dice, size=(192, 144)):
    """A street as a child would draw it."""
    image = Image.new("RGB", size, (150, 180 + dice.randrange(40), 220))
    draw = ImageDraw.Draw(image)
    draw.polygon([(0, 144), (80, 70), (112, 70), (192, 144)], fill=(90, 90, 96))
    for _ in range(6):
        x, y = dice.randrange(170), dice.randrange(40, 110)
        draw.rectangle([x, y, x + 22, y + 14], fill=tuple(dice.randrange(256) for _ in range(3)))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
