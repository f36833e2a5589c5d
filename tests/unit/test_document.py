"""The page that every kind of experiment is reported as."""

from checked_page import Checker

from inlier.report.document import Document, Section, document_html, document_text
from inlier.report.figures import Line, Point, line_chart
from inlier.report.parts import Plot
from inlier.report.tables import Column, Rate, Table, words

TABLE = Table(
    "by_eps", "Success over eps", (Column("eps"), Column("success", bar=1.0)),
    ((words("1/255"), Rate(1, 4, 0.01, 0.8)), (words("2/255"), None)),
)  # fmt: skip
CHART = line_chart("success", "rises", [Line("dual", [Point(0, 0), Point(1, 1)])], "eps", "success")
DOCUMENT = Document(
    title="Tom & Jerry <attack>", lead="What was tried.", verdict="Broken at eps 2/255.", facts=[("Network", "a toy")],
    sections=[Section("success", "Success", ["A paragraph."], [("dual", "s0")], [Plot("Success", CHART)], [TABLE])],
    limits=["Nothing else was tried."],
    results={
        "command": "inlier evaluate toy.toml --out toy", "config": {"eps": [1, 2]}, "seconds": 12.3, "threads": 2,
        "notes": ["A note."],
    },
)  # fmt: skip


def test_the_page_is_whole_and_its_links_lead_somewhere():
    page = Checker(document_html(DOCUMENT))
    assert page.open == []
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert "success" in page.ids
    assert "table-by_eps" in page.ids


def test_the_page_says_everything_and_escapes_it():
    text = document_html(DOCUMENT)
    said = (
        "Tom &amp; Jerry &lt;attack&gt;", "Broken at eps 2/255.", "A paragraph.", "1 of 4", "Nothing else was tried.",
        "A note.", "inlier evaluate toy.toml --out toy", "last run took 12 s on 2 threads",
    )  # fmt: skip
    for part in said:
        assert part in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_on_a_terminal_tables_are_aligned_and_absent_cells_dashes():
    lines = document_text(DOCUMENT).splitlines()
    assert lines[0] == "Broken at eps 2/255."
    assert lines[2:] == ["Success over eps", "eps    success", "1/255     25 %", "2/255        -"]
