"""Checks on the attackers of an evaluation: each passes and fails where it should, and says when it was not run."""

from dataclasses import replace

import pytest
import torch

from inlier.evaluation.record import MonitorEntry, Record, SetEntry
from inlier.evaluation.record_gates import record_gates

NAMES = tuple("abcd")
RISES, ITERATED = "damage rises with eps", "iterated attack against one step"
NOISE = "an attack damages more than random signs of its size or more"
KNOWS, BREAKS = "who knows more succeeds more often", "the suite breaks what is known to break"


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def attacked(name, kind="attack", **settings):
    return SetEntry(name, f"the {name}", kind, kind, settings=settings, of="clean", names=NAMES)


def monitor(name, detector, thresholds):
    return MonitorEntry(name, name, "", (detector,), "max", (0,), "", tuple(thresholds), {0: thresholds}, "")


@pytest.fixture
def record():
    sets = (
        SetEntry("clean", "clean", "clean", names=NAMES),
        attacked("large", eps=0.02, steps=5, step_size=0.01),
        attacked("small", eps=0.01, steps=5, step_size=0.005),
        attacked("once", eps=0.02),
        attacked("joint", "joint", monitor="bands", eps=0.02),
        replace(attacked("signs", "control", eps=0.05), change="sign_noise"),
    )
    changed = {"large": doubles(0.9, 0.9, 0.9, 0.1), "small": doubles(0.5, 0.5, 0.5, 0.1),
               "once": doubles(0.4, 0.4, 0.4, 0.1), "joint": doubles(0.5, 0.5, 0.5, 0.5),
               "signs": doubles(0.1, 0.1, 0.1, 0.1)}  # fmt: skip
    scores = {("bands", 0, name): doubles(5, 5, 5, 5) for name in ("large", "small", "once")}
    scores |= {("bands", 0, "clean"): doubles(0, 0, 0, 9), ("bands", 0, "joint"): doubles(0, 0, 5, 0)}
    scores |= {("msp", 0, name): doubles(0, 0, 5, 0) for name in ("large", "small", "once", "clean", "joint")}
    monitors = (monitor("bands", "mahalanobis", {0.01: 9.5, 0.05: 1.0}), monitor("msp", "max_softmax", {0.05: 1.0}))
    return Record(monitors, sets, scores, changed=changed)


def gates_of(record):
    return {gate.name: gate for gate in record_gates(record)}


def test_strong_attackers_pass_and_what_takes_a_stress_test_is_not_run(record):
    found = gates_of(record)
    assert {name: found[name].verdict for name in (RISES, ITERATED, NOISE, KNOWS, BREAKS)} == dict.fromkeys(
        (RISES, ITERATED, NOISE, KNOWS, BREAKS), "PASS"
    )
    assert found[RISES].observed == "attack: 0.400, 0.700"
    assert found[ITERATED].observed == "0.700 against 0.325"
    assert found[NOISE].observed == "least, the once: 0.325 against 0.100"
    assert found[KNOWS].observed == "0.667 against 0.000 (bands)"  # of three that raised no alarm before
    assert found[BREAKS].observed == "1.000"
    others = [gate for name, gate in found.items() if name not in (RISES, ITERATED, NOISE, KNOWS, BREAKS)]
    assert [gate.verdict for gate in others] == ["not run"] * 3
    assert all("inlier stress" in gate.observed for gate in others)


@pytest.mark.parametrize(
    ("name", "part", "wrong"),
    [
        (RISES, "changed", {"large": doubles(0, 0, 0, 0)}),
        (ITERATED, "changed", {"once": doubles(0.9, 0.9, 0.9, 0.9)}),
        (NOISE, "changed", {"signs": doubles(0.6, 0.5, 0.5, 0.6)}),
        (KNOWS, "scores", {("bands", 0, "joint"): doubles(5, 5, 5, 5), ("bands", 0, "large"): doubles(0, 0, 0, 5)}),
        (BREAKS, "scores", {("msp", 0, each): doubles(5, 5, 0, 5) for each in ("large", "small", "once", "joint")}),
    ],
)
def test_weak_attackers_fail(record, name, part, wrong):
    broken = replace(record, **{part: {**getattr(record, part), **wrong}})
    assert gates_of(broken)[name].verdict == "FAIL"


def test_what_is_not_there_is_not_passed(record):
    alone = replace(record, sets=(record.sets[0], record.sets[2]), monitors=record.monitors[:1])
    found = gates_of(alone)
    assert {gate.verdict for gate in found.values()} == {"not run"}
    assert found[RISES].observed == "no attack at several eps"
    assert found[ITERATED].observed == "no two of one eps"
    assert found[NOISE].observed == "no such signs were tried"
    assert "nobody here knows a monitor" in found[KNOWS].observed
    assert found[BREAKS].observed == "no such monitor with a threshold"
    without = replace(record.monitors[1], thresholds={})
    assert gates_of(replace(record, monitors=(record.monitors[0], without)))[BREAKS].verdict == "not run"


def test_nothing_is_checked_where_nobody_attacked(record):
    assert record_gates(replace(record, sets=(record.sets[0], record.sets[-1]))) == []
