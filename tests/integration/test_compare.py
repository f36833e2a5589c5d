"""`inlier compare` on folders of evaluations and on files of scores, through the command line."""

import csv
import json

import pytest
import torch
from command_line import inlier
from evaluated import made_up

from inlier.evaluation.metrics import auroc
from inlier.evaluation.record import MonitorEntry, Record, SetEntry

N = 24
CLASSES = ("sky", "road", "car")


def evaluated(folder, monitors=("mahalanobis", "daain"), seed=0, wrong=0.2):
    """What `inlier evaluate` leaves, with made-up scores: fog, an attack and foreign images; two drives."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    names = tuple(f"{n:02}.png" for n in range(N))
    kept = {"names": names, "groups": ("0001TP",) * 12 + ("Seq05VD",) * 12}
    sets = (
        SetEntry("clean", "CamVid test", "clean", **kept),
        SetEntry("fog-3", "fog 3", "perturbation", "fog", 3, of="clean", **kept),
        SetEntry("pgd", "PGD [untargeted]", "attack", "pgd", of="clean", **kept),
        SetEntry("x-rays", "X-rays", "ood", names=tuple("abc"), groups=("x",) * 3),
    )
    shift = {"clean": 0.0, "fog-3": 0.4, "pgd": 0.2, "x-rays": 0.8}
    Record(
        tuple(
            MonitorEntry(name, name.upper(), "ours", (name,), "max", (0,), "robust", (0.05, 0.1),
                         {0: {0.05: 0.95, 0.1: 0.9}}, "made up")
            for name in monitors
        ),
        sets,
        {(m, 0, s.name): uniform(len(s.names)) + shift[s.name] for m in monitors for s in sets},
        changed={name: uniform(N) for name in ("fog-3", "pgd")},
        wrong={name: wrong + 0.01 * uniform(N) for name in ("clean", "fog-3", "pgd")},
        content={"clean": uniform(N, 3) / 100},
        light={"clean": uniform(N)},
    ).save(folder / "scores.safetensors")  # fmt: skip
    results = made_up(pictures=False) | {"main": monitors[0]}
    results["network"]["classes"] = list(CLASSES)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    one, other = (tmp_path_factory.mktemp(name) for name in ("one", "other"))
    return evaluated(one), evaluated(other, seed=1, wrong=0.4)


def test_two_monitors_of_an_evaluation_are_compared_at_the_rate_nearest_to_five_percent(folders):
    ran = inlier("compare", folders[0], "--monitors", "mahalanobis,daain", "--json")
    assert ran.code == 0, ran.err
    told = ran.json["comparison"]
    assert (told["a"], told["b"]) == ("MAHALANOBIS", "DAAIN")
    record = Record.load(folders[0] / "scores.safetensors")
    (fog,) = [row for row in told["rows"] if row["name"] == "fog-3"]
    areas = [auroc(record.scores[m, 0, "clean"], record.scores[m, 0, "fog-3"]) for m in ("mahalanobis", "daain")]
    assert [fog["differences"]["auroc"][side] for side in "ab"] == pytest.approx(areas)
    assert set(fog["differences"]) == {"auroc", "flagged@0.05"}
    assert ran.json["slices"] == []


def test_people_are_told_in_tables_and_of_what_to_know_on_stderr(folders):
    ran = inlier("compare", folders[0], "--slices", "--resamples", 50)
    assert ran.code == 0, ran.err
    assert "A: MAHALANOBIS" in ran.out
    assert "PGD [untargeted]" in ran.out  # a label is no markup
    assert "too few" in ran.out
    assert "flagged at a nominal false-alarm rate of 0.05" in ran.out
    for part in ("0001TP", "brightness up to", "of the pixels changed", "pixels wrong"):
        assert part in ran.out
    assert "from drawing the same images for both 50 times" in ran.err
    assert "(Holm, 95 %)" in ran.err


def test_one_monitor_is_told_of_by_slices_with_the_names_of_the_classes(folders):
    ran = inlier("compare", folders[0], "--monitors", "daain", "--rate", 0.1, "--rate", 0.05, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["comparison"] is None
    assert [table["rate"] for table in ran.json["slices"]] == ["0.1", "0.05"]
    labels = [row["label"] for row in ran.json["slices"][0]["rows"]]
    assert "without car" in labels
    record = Record.load(folders[0] / "scores.safetensors")
    (drive,) = [row for row in ran.json["slices"][0]["rows"] if row["label"] == "Seq05VD"]
    assert drive["rates"]["false alarms"]["hits"] == int((record.scores["daain", 0, "clean"][12:] > 0.9).sum())


def test_two_networks_are_compared_by_their_main_monitors_and_by_what_they_predict_wrong(folders):
    ran = inlier("compare", *folders, "--json")
    assert ran.code == 0, ran.err
    clean = next(row for row in ran.json["comparison"]["rows"] if row["name"] == "clean")
    assert clean["differences"]["wrong"]["better"] == "a"
    assert ran.json["comparison"]["a"] != ran.json["comparison"]["b"]  # of one name, and told apart by the folder


def test_tables_are_written_as_csv_and_latex(folders, tmp_path):
    ran = inlier("compare", folders[0], "--slices", "--resamples", 20, "--out", tmp_path / "new" / "tables")
    assert ran.code == 0, ran.err
    with (tmp_path / "new" / "tables" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["metric"] for row in rows} == {"auroc", "flagged@0.05"}
    assert all(float(row["low"]) <= float(row["difference"]) <= float(row["high"]) for row in rows)
    with (tmp_path / "new" / "tables" / "slices.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["monitor"] for row in rows} == {"MAHALANOBIS", "DAAIN"}
    assert all(0 <= float(row["low"]) <= float(row["rate"]) <= float(row["high"]) <= 1 for row in rows)
    for name, captions in (
        ("comparison", ("AUROC. A: ", "flagged at")),
        ("slices", ("MAHALANOBIS: share", "DAAIN: share")),
    ):
        text = (tmp_path / "new" / "tables" / f"{name}.tex").read_text()
        assert text.count(r"\begin{tabular}") == text.count(r"\end{table}") == 2
        assert all(rf"\caption{{{caption}" in text for caption in captions)
        printed = [line for line in ran.out.splitlines() if line.startswith("all changes")]
        assert name == "slices" or all(word in text for word in printed[0].split())


def test_equal_seeds_tell_the_same(folders):
    first, again = (inlier("compare", folders[0], "--slices", "--json", "--resamples", 50).out for _ in range(2))
    assert first == again


def scores(path, flagged, shift=0.0):
    lines = [
        {"image": f"{n}.png", "group": "summer", "score": n / 30 + shift, "p_value": 0.5, "flagged": flagged > n}
        for n in range(30)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_files_of_scores_are_compared_with_and_without_clean_images(tmp_path):
    a, b, clean_a, clean_b = (
        scores(tmp_path / f"{name}.jsonl", flagged, shift)
        for name, flagged, shift in (("a", 3, 0.2), ("b", 28, 5.0), ("clean_a", 2, 0.0), ("clean_b", 2, 0.0))
    )
    ran = inlier("compare", a, b, "--json")
    assert ran.code == 0, ran.err
    (row,) = ran.json["comparison"]["rows"]
    assert row["differences"]["flagged"]["difference"] == pytest.approx(25 / 30)
    assert row["differences"]["flagged"]["better"] is None
    ran = inlier("compare", a, b, "--clean", clean_a, clean_b, "--json")
    assert ran.code == 0, ran.err
    changed = next(row for row in ran.json["comparison"]["rows"] if row["name"] == "changed")
    assert changed["differences"]["flagged"]["better"] == changed["differences"]["auroc"]["better"] == "b"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{one}", "--monitors", "daain,mahalanobis,energy"], "one name, or two"),
        (["{one}", "--monitors", "dain"], "No monitor named 'dain'"),
        (["{one}", "--per", "colour"], "kind, change or set"),
        (["{one}", "--rate", "0.2"], "threshold for a false-alarm rate of 0.2"),
        (["{one}", "{scores}"], "two of a kind"),
        (["{scores}"], "give another"),
        (["{scores}", "{scores}", "--monitors", "daain"], "file of scores is of one monitor"),
        (["{one}", "--clean", "{scores}", "{scores}"], "has its clean images in it"),
        (["{empty}"], "wrote"),
        (["{empty}/nothing.jsonl", "{scores}"], "nothing.jsonl"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_what_to_do(folders, tmp_path, arguments, message):
    places = {"one": folders[0], "scores": scores(tmp_path / "s.jsonl", 3), "empty": tmp_path}
    ran = inlier("compare", *(argument.format(**places) for argument in arguments))
    assert ran.code == 2
    assert message in ran.err


def test_of_many_monitors_one_has_to_say_which(tmp_path):
    ran = inlier("compare", evaluated(tmp_path, monitors=("mahalanobis", "daain", "energy")))
    assert ran.code == 2
    assert "mahalanobis, daain, energy" in ran.err
