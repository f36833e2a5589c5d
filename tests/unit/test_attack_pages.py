"""The pages of attacks and of stress tests: whole, and saying what the results say."""

import re

import pytest
from attacked import attack_results, stress_results
from checked_page import Checker

from inlier.evaluation.results_file import write_results
from inlier.report.document import document_html, document_text
from inlier.report.documents import DOCUMENTS
from inlier.report.folder import read_results, write_report


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return {"attack": attack_results(folder / "attack")[0], "stress": stress_results(folder / "stress", budget="smoke")}


@pytest.mark.parametrize("kind", ["attack", "stress"])
def test_a_page_is_whole_and_is_written_again_from_its_results(results, tmp_path, kind):
    text = document_html(DOCUMENTS[kind](results[kind]))
    page = Checker(text)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert "&amp; &lt;more&gt;" in text
    write_results(tmp_path, results[kind])
    written = write_report(tmp_path, read_results(tmp_path))
    assert written[0].read_text() == text
    assert {path.suffix for path in written[1:]} == {".csv", ".tex"}
    assert not re.search("robust|secure", text)


def test_the_page_of_attacks_leads_with_the_most_that_any_came_to(results):
    found = results["attack"]
    document = DOCUMENTS["attack"](found)
    most = max(row["success_0.3"]["hits"] for row in found["rows"])
    assert most > 0
    assert document.verdict.startswith(f"{most} of {found['silent']} images got past the monitor")
    assert len(document.sections[1].pictures) == 12
    text = document_text(document)
    assert re.search(r"^dual +T3 +30\.6/255", text, re.MULTILINE)
    assert not any("(T3)" in limit for limit in document.limits)
    assert any("(T1)" in limit for limit in document.limits)


def test_attacks_that_came_to_nothing_are_no_proof(results):
    none = {"hits": 0, "images": 4, "rate": 0.0, "interval": [0.0, 0.6]}
    rows = [row | {"success_0.3": none} for row in results["attack"]["rows"]]
    verdict = DOCUMENTS["attack"](results["attack"] | {"rows": rows}).verdict
    assert verdict.startswith("None of 4 images got past")
    assert verdict.endswith("A stronger attack may.")
    alarming = [row | {"attack": "false_alarm"} for row in rows]
    made = max(row["detected"]["hits"] for row in rows)
    assert DOCUMENTS["attack"](results["attack"] | {"rows": alarming}).verdict.startswith(
        f"{made} of 4 images that raised"
    )


def test_the_page_of_a_stress_test_tells_of_gates_tiers_surface_and_what_was_not_tried(results):
    found = results["stress"]
    document = DOCUMENTS["stress"](found)
    text = document_html(document)
    for gate in found["gates"]:
        assert gate["name"] in text
    assert document.verdict.lower().startswith(found["verdict"])
    told = dict(document.facts)
    assert told["T1"].endswith("not tried here")
    assert told["T2"].endswith("not tried here")
    assert "8-bit images" in told["Attack surface"]
    assert any("T1" in limit for limit in document.limits)
    quality = next(table for table in document.tables if table.name == "quality")
    assert [row[0].text for row in quality.rows] == ["clean", "15.3/255", "30.6/255"]


def test_a_gate_that_failed_is_in_the_verdict(results):
    gates = [gate | {"verdict": "FAIL"} for gate in results["stress"]["gates"][:1]] + results["stress"]["gates"][1:]
    document = DOCUMENTS["stress"](results["stress"] | {"gates": gates})
    assert f"gates failed: {gates[0]['name']}" in document.verdict
    assert "FAIL" in document_text(document)
