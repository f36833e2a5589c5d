"""The report of an evaluation is one file that needs nothing else, and says what the results say."""

import copy
import json
import re

import pytest
import typer
from checked_page import Checker
from evaluated import made_up
from typer.testing import CliRunner

from inlier.cli.report import report
from inlier.errors import Mismatch
from inlier.evaluation.results_file import write_results
from inlier.report.evaluation_page import LIMIT, evaluation_page, sign_off_page
from inlier.report.folder import read_results, without_images, write_report

RESULTS = made_up()
PLAIN = made_up(pictures=False)


@pytest.fixture
def results():
    return copy.deepcopy(RESULTS)


@pytest.fixture
def plain():
    """Without pictures and but one curve, which are quicker to write."""
    results = copy.deepcopy(PLAIN)
    results["curves"] = {which: curves[:1] for which, curves in results["curves"].items()}
    return results


def text_of(html):
    return re.sub(r"\s+", " ", Checker(html).text)


def ids(html):
    return Checker(html).ids


@pytest.mark.parametrize("page", [evaluation_page, sign_off_page])
def test_every_tag_is_closed_in_its_turn_and_ids_are_unique(results, page):
    html = page(results)
    assert Checker(html).open == []
    assert len(set(ids(html))) == len(ids(html))


@pytest.mark.parametrize("page", [evaluation_page, sign_off_page])
def test_a_page_asks_for_nothing_from_outside(results, page):
    html = page(results)
    checked = Checker(html)
    assert not {"script", "link", "iframe", "object", "base"} & set(checked.tags)
    for _, name, value in checked.attributes:
        if name in ("src", "href", "srcset", "xlink:href"):
            assert value.startswith(("data:image/", "#"))
    assert "url(" not in html
    assert "@import" not in html
    assert "http" not in re.sub(r'"data:image/[^"]*"', "", html)


def test_links_of_the_page_lead_to_sections_that_are_there(results):
    for kept in (results, {**results, "worst": [], "rows": [], "curves": {}, "figures": {}}, {"format": 1}):
        html = evaluation_page(kept)
        wanted = {value[1:] for _, name, value in Checker(html).attributes if name == "href"}
        assert wanted == {name for name in ids(html) if not name.startswith("table-")} - {"verdict"}


def test_the_page_tells_the_whole_story_in_order(results):
    html = evaluation_page(results)
    sections = [name for name in ids(html) if not name.startswith("table-")]
    assert sections == [
        "verdict", "tried", "false-alarms", "caught", "missed", "comparison", "figures", "foreign", "cost", "limits",
        "again", "terms",
    ]  # fmt: skip


def test_it_says_what_the_results_say(results):
    text = text_of(evaluation_page(results)).replace("\N{NO-BREAK SPACE}", " ")
    fog = next(r for r in results["rows"] if r["monitor"] == "mahalanobis" and r["set"] == "fog_3")
    counts = fog["flagged"]["0.05"]
    for told in (
        "DAAIN on CamVid, made up", "364,000 parameters", "45 of 0001TP, 74 of 0006R0, 149 of 0016E5", "met", "missed",
        "nominal false-alarm rate of 5 %", f"{counts['hits']} of {counts['images']}", "JPEG 90 & no more",
        "Seq05VD_f00000.png: 90 % of the pixels changed, no alarm, p-value 0.060", "Frames of <one drive> follow",
        "inlier evaluate experiments/daain_camvid.toml", "inlier 0.1.0", "913 s on 2 threads", "X-ray pictures",
        "order statistic, from clean scores cross-fitted over blocks",
    ):  # fmt: skip
        assert told in text, told
    for row in results["pooled"]:
        if row["monitor"] == "daain":
            assert f"{row['auroc']:.3f}" in text


def test_terms_are_explained_where_they_are_used_and_only_there(results):
    text = text_of(evaluation_page(results))
    for term in ("AUROC", "FPR95", "AIoU", "key", "false alarm"):
        assert f"{term}" in text.split("Terms")[-1]
    small = text_of(evaluation_page({"format": 1, "title": "Small"}))
    assert "FPR95" not in small


@pytest.mark.parametrize("page", [evaluation_page, sign_off_page])
def test_a_page_promises_nothing(results, page):
    text = text_of(page(results)).lower()
    assert "observed" in text
    for word in ("robust", "secure", "guarantee"):
        assert word not in text


@pytest.mark.parametrize("page", [evaluation_page, sign_off_page])
def test_names_cannot_break_a_page(results, page):
    results["title"] = "<script>alert(1)</script> & co"
    results["config"] = {"title": "</code></pre><b>"}
    for entry in results["sets"]:
        entry["label"] = f'"><i>{entry["label"]}'
        entry["groups"] = {f"<u>{name}": n for name, n in entry["groups"].items()}
    results["worst"][0]["image"] = "<img src=x>"
    html = page(results)
    assert Checker(html).open == []
    assert not {"script", "i", "u"} & set(Checker(html).tags)
    assert "<script>alert(1)</script> & co" in text_of(html)


def test_pictures_from_elsewhere_than_the_page_are_not_shown(results):
    results["worst"][0]["before"] = "https://example.org/x.png"
    results["pictures"] = {"fog_1": {"before": "file:///x.png", "after": None}}
    html = evaluation_page(results)
    assert "example.org" not in html
    assert "file:" not in html


PARTS = [
    "title", "command", "config", "seconds", "threads", "network", "fitted_to", "rows", "summary", "pooled", "held_out",
    "against_damage", "curves", "figures", "worst", "pictures", "targets", "notes", "main", "sets", "monitors",
]  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_not_there_is_left_out(plain, part):
    del plain[part]
    assert Checker(evaluation_page(plain)).open == []
    assert Checker(sign_off_page(plain)).open == []


def test_results_with_nothing_in_them_are_a_page_and_a_sheet():
    for nothing in ({"format": 1}, {"format": 1, **dict.fromkeys(PARTS)}):
        assert Checker(evaluation_page(nothing)).open == []
        assert Checker(sign_off_page(nothing)).open == []


@pytest.mark.parametrize("kind", ["perturbation", "attack", "universal", "control", "ood", "clean"])
def test_a_kind_of_set_that_was_not_tried_is_left_out(plain, kind):
    gone = {s["name"] for s in plain["sets"] if s["kind"] == kind}
    plain["sets"] = [s for s in plain["sets"] if s["kind"] != kind]
    for name in ("rows", "summary", "worst"):
        plain[name] = [row for row in plain[name] if row["set"] not in gone]
    assert Checker(evaluation_page(plain)).open == []
    assert Checker(sign_off_page(plain)).open == []


def test_a_number_that_is_null_is_a_gap_and_no_error(results):
    names = ("auroc", "auroc_interval", "aupr", "fpr95", "changed", "aacc", "aiou", "miou", "linf", "cost", "p_value")
    for part in ("rows", "summary", "pooled", "sets", "monitors", "worst"):
        for entry in results[part]:
            entry |= {name: None for name in names if name in entry and (part, name) != ("worst", "changed")}
    text = text_of(evaluation_page(results) + sign_off_page(results))
    assert not re.search(r"\bNone\b(?! of| is)|\bnan\b|null", text)


def test_the_page_stays_small_by_leaving_out_pictures_the_worst_misses_last(results):
    heavy = "data:image/webp;base64," + "A" * 200_000
    for entry in results["worst"]:
        entry |= dict.fromkeys(("before", "after", "predicted_before", "predicted_after"), heavy)
    for views in results["pictures"].values():
        views |= dict.fromkeys(("before", "after"), heavy)
    html = evaluation_page(results)
    assert len(html.encode()) < LIMIT
    assert "rows of pictures were left out" in html
    assert html.count(f'"{heavy}"') >= 16  # four whole misses at least


def test_twelve_misses_at_most_worst_first(results):
    results["worst"] = [{**results["worst"][0], "changed": n / 20, "image": f"{n}.png"} for n in range(20)]
    shown = re.findall(r"(\d+)\.png: ", evaluation_page(results))
    assert shown == [str(n) for n in range(19, 7, -1)]


def test_a_report_without_misses_says_where_to_look(results):
    assert "count what was missed" in text_of(evaluation_page({**results, "worst": []}))


def test_tables_on_the_page_are_those_in_the_folder(results, tmp_path):
    written = write_report(tmp_path, results)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    files = {path.stem for path in (tmp_path / "tables").iterdir()}
    assert {name.removeprefix("table-") for name in ids(html) if name.startswith("table-")} == files
    assert written[:2] == [tmp_path / "report.html", tmp_path / "sign_off.html"]
    assert all(path.is_file() for path in written)
    assert html.rstrip().endswith("</html>")
    assert len(html.encode()) < LIMIT


def test_the_sheet_says_what_a_signature_is_for(results):
    text = text_of(sign_off_page(results)).replace("\N{NO-BREAK SPACE}", " ")
    for told in (
        "fingerprint 3f9c2ab17d50e8c4", "banded Mahalanobis", "nominal false-alarm rate of 5 %",
        "0001TP 62, Seq05VD 55", "0001TP 45, 0006R0 74, 0016E5 149", "What is not covered", "Signed off for", "missed",
        "GD-UAP", "X-ray pictures",
    ):  # fmt: skip
        assert told in text, told


def test_a_sheet_with_too_much_to_tell_says_how_much_it_leaves_to_the_report(results):
    model = next(s for s in results["sets"] if s["name"] == "fog_1")
    row = next(r for r in results["rows"] if r["set"] == "fog_1" and r["monitor"] == "mahalanobis")
    for n in range(40):
        results["sets"].append({**model, "name": f"more_{n}", "label": f"number {n}."})
        results["rows"].append({**row, "set": f"more_{n}"})
    text = text_of(sign_off_page(results))
    left_out = int(re.search(r"(\d+) more are in report.html", text).group(1))
    shown = len(re.findall(r"number \d+\.", text)) + 5  # the paper's own; the foreign images come last and are cut
    assert 0 < left_out < 40
    assert shown + left_out == 46


def test_a_sheet_tells_missed_targets_first_and_how_many_are_not_on_it(results):
    met, missed = results["targets"]
    results["targets"] = [met] * 7 + [missed]
    text = text_of(sign_off_page(results))
    assert text.index(missed["text"]) < text.index(met["text"])
    assert "2 more are in report.html" in text


def run(*arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(report)
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_the_command_writes_a_report_anew_beside_the_results_or_elsewhere(results, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert run(str(tmp_path)).stdout == f"{tmp_path / 'report.html'}\n"
    other = tmp_path / "other" / "place"
    assert run(str(tmp_path / "results.json"), "--out", str(other)).exit_code == 0
    assert (other / "report.html").read_bytes() == (tmp_path / "report.html").read_bytes()
    assert (other / "tables" / "pooled.csv").read_bytes() == (tmp_path / "tables" / "pooled.csv").read_bytes()
    assert not (other / "results.json").exists()


def test_what_is_no_results_is_refused_with_what_was_expected(tmp_path):
    file = tmp_path / "results.json"
    with pytest.raises(FileNotFoundError, match="inlier evaluate"):
        read_results(tmp_path)
    for text, said in (("{", "is no JSON"), ("[]", "does not say what format"), ('{"format": 2}', "reads format 1")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(Mismatch, match=said):
            read_results(file)


def test_results_without_images_have_every_number_and_no_picture(tmp_path):
    results = made_up()
    bare = without_images(results)
    assert "data:image" in json.dumps(results)
    assert "data:image" not in json.dumps(bare)
    assert bare["rows"] == results["rows"]
    assert [entry["changed"] for entry in bare["worst"]] == [entry["changed"] for entry in results["worst"]]
    write_results(tmp_path, bare)
    write_report(tmp_path, read_results(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "image/webp" not in page
