"""Results of `inlier attack` and `inlier stress` on a toy network, as the commands leave them."""

import json

from toy_segmentation import scenes, segmenter

from inlier.evaluation.attacking import AttackRun, attackers_of
from inlier.evaluation.measure import without_nan
from inlier.evaluation.results_file import FORMAT, shortened
from inlier.evaluation.stress import Stress
from inlier.evaluation.subjects import Subjects
from inlier.monitor import Monitor


def fitted(backbone=None, detector="mahalanobis"):
    return Monitor(backbone or segmenter(), detector, seed=0).fit(scenes(60, 1)).calibrate(false_alarm_rate=0.05)


def subjects(count=4, labelled=False):
    images = scenes(count, 2)
    plain = Subjects(images, tuple(f"drive/frame_{i}.png" for i in range(count)))
    return plain.labelled(segmenter().predict(images), segmenter()) if labelled else plain


def as_written(kind, found):
    """Results as they come from their file."""
    told = {"format": FORMAT, "kind": kind, "title": f"A {kind} & <more>", "command": f"inlier {kind} m.inlier",
            "config": found["settings"], **found}  # fmt: skip
    return json.loads(json.dumps(shortened(without_nan(told)), allow_nan=False))


def attack_results(folder):
    attackers, norm = attackers_of(["pgd", "square"], ["dual"], steps=8)
    run = AttackRun(fitted(), subjects(), folder, attackers=attackers, epsilons=(0.06, 0.12), norm=norm)
    found, rows = run.run()
    return as_written("attack", found), rows


def stress_results(folder, labelled=True, **settings):
    run = Stress(fitted(), subjects(labelled=labelled), folder, epsilons=(0.06, 0.12), **settings)
    return as_written("stress", run.run())
