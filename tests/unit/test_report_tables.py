"""A table is the same on a page, in CSV and in LaTeX, and a rate is never without its images and interval."""

import csv
import io
import re

import pytest
from evaluated import made_up

from inlier.report.evaluation_tables import evaluation_tables, settings_of
from inlier.report.findings import Findings, label_of
from inlier.report.tables import (
    Column,
    Rate,
    Spread,
    Table,
    Value,
    number,
    quantity,
    share,
    to_csv,
    to_latex,
    whole,
    words,
    write_tables,
)

NB = "\N{NO-BREAK SPACE}"


@pytest.fixture(scope="module")
def tables():
    return evaluation_tables(Findings(made_up(pictures=False)))


def small(*cells, title="a_b"):
    columns = (Column("change"), *(Column(f"{title} {n}") for n in range(len(cells))))
    return Table("t", "A & B", columns, ((words("50% fog_1"), *cells),))


def rows_of(text):
    return list(csv.reader(io.StringIO(text)))


def test_a_csv_has_a_column_for_each_part_of_a_cell_at_full_precision():
    heading, row = rows_of(to_csv(small(Rate(1, 3, 0.1, 0.9), Spread(0.94123456, 0.01, 5, 0.9, 0.97, 117))))
    assert heading == [
        "change", "a_b 0", "a_b 0 flagged", "a_b 0 images", "a_b 0 low", "a_b 0 high",
        "a_b 1", "a_b 1 std", "a_b 1 keys", "a_b 1 low", "a_b 1 high", "a_b 1 images",
    ]  # fmt: skip
    assert row == ["50% fog_1", repr(1 / 3), "1", "3", "0.1", "0.9", "0.94123456", "0.01", "5", "0.9", "0.97", "117"]


def test_a_missing_cell_is_empty_in_csv_and_a_dash_in_latex():
    table = Table("t", "", (Column("a"), Column("b")), ((words("x"), Rate(1, 2, 0, 1)), (words("y"), None)))
    assert rows_of(to_csv(table))[2] == ["y", "", "", "", "", ""]
    assert r"y & -- \\" in to_latex(table)


def test_latex_has_rules_and_no_letter_that_it_would_misread():
    text = to_latex(small(Rate(1, 2, 0.013, 0.987), Spread(0.5, 0.1, 2)))
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{A \& B}", r"\begin{tabular}{lrr}"):
        assert rule in text
    assert r"50\% fog\_1 & 50~\% (1 of 2, 1.3~\% to 99~\%) & 0.500 $\pm$ 0.100 \\" in text
    body = text.split("\n", 1)[1]  # after the comment about the package
    assert not re.search(r"(?<!\\)%", body)
    assert not re.search(r"(?<!\\)#|[<>\N{NO-BREAK SPACE}]", body)
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_every_table_of_an_evaluation_is_plain_latex_with_as_many_cells_as_columns(tables):
    for table in tables.values():
        text = to_latex(table)
        assert text.isascii(), [letter for letter in text if not letter.isascii()]
        for line in text.splitlines():
            if line.endswith(r" \\"):
                assert len(re.findall(r"(?<!\\)&", line)) == len(table.columns) - 1


def test_csv_and_page_show_the_same_numbers(tables):
    """What a reader of the page sees is what a cell makes of the value that the CSV has."""
    for table in tables.values():
        heading, *rows = rows_of(to_csv(table))
        assert len(rows) == len(table.rows)
        assert len(set(heading)) == len(heading)
        for cells, row in zip(table.rows, rows, strict=True):
            place = 0
            for n, cell in enumerate(cells):
                width = len(table.kind(n))
                values = row[place : place + width]
                place += width
                if isinstance(cell, Rate):
                    assert Rate(int(values[1]), int(values[2]), float(values[3]), float(values[4]), cell.others) == cell
                elif isinstance(cell, Spread):
                    assert f"{float(values[0]):.3f}" == cell.text[:5]
                elif cell is not None:
                    assert values == [str(cell.value)]
                else:
                    assert set(values) == {""}


def test_a_rate_tells_images_interval_and_where_other_keys_went():
    cell = Rate(3, 62, 0.0101, 0.135, others=(0.0, 0.1))
    assert cell.text == f"4.8{NB}%"
    assert cell.note == f"3 of 62, 1.0{NB}% to 14{NB}%; 3 keys 0{NB}% to 10{NB}%"


def test_there_is_no_rate_of_no_images_or_without_interval():
    assert Rate.of({"hits": 0, "images": 0, "interval": [0, 1]}) is None
    assert Rate.of({"hits": 1, "images": 2}) is None
    assert Rate.of(None) is None
    assert Rate.of({"hits": 1, "images": 2, "interval": [0, 1]}, [None, {"hits": 2, "images": 2}]).others == (1.0,)


def test_one_key_has_no_spread_and_several_have():
    assert Spread(0.9, 0.0, 1).text == "0.900"
    assert Spread(0.9, 0.01, 5).text == "0.900 \N{PLUS-MINUS SIGN} 0.010"
    row = {"auroc": 0.8, "auroc_interval": [0.7, 0.9]}
    assert Spread.of({"seeds": 2, "auroc": {"mean": 0.85, "std": 0.05}}, row, "auroc", 9) == Spread(
        0.85, 0.05, 2, 0.7, 0.9, 9
    )
    assert Spread.of(None, row, "auroc").mean == 0.8
    assert Spread.of(None, {"auroc": None}, "auroc") is None


def test_values_read_well_and_nothing_is_none():
    cells = whole(1234567), quantity(256_976), quantity(1.03e9), number(0.12345), share(0.004)
    assert [cell.text.replace(NB, " ") for cell in cells] == ["1,234,567", "257 k", "1.03 G", "0.123", "<1 %"]
    assert [make(None) for make in (whole, quantity, number, share, words)] == [None] * 5
    assert words("") is None
    assert isinstance(words("x"), Value)


def test_warmth_goes_from_cold_to_hot_and_not_beyond():
    down, up = Column("FPR95", heat=(1.0, 0.0)), Column("AUROC", heat=(0.5, 1.0))
    assert [down.warmth(number(v)) for v in (1.0, 0.25, 0.0)] == [0.0, 0.75, 1.0]
    assert [up.warmth(number(v)) for v in (0.3, 0.75, 1.0)] == [0.0, 0.5, 1.0]
    assert Column("plain").warmth(number(0.5)) is up.warmth(words("x")) is up.warmth(None) is None


def test_rows_and_columns_with_nothing_in_them_are_left_out():
    table = Table("t", "", tuple(map(Column, "abc")), ((words("x"), None, number(1.0)), (words("y"), None, None)))
    kept = table.filled()
    assert [column.title for column in kept.columns] == ["a", "c"]
    assert [row[0].text for row in kept.rows] == ["x"]
    assert Table("t", "", tuple(map(Column, "ab")), ((words("x"), None),)).filled() is None


def test_every_table_is_written_twice(tables, tmp_path):
    written = write_tables(tmp_path, list(tables.values()))
    assert {path.name for path in tmp_path.iterdir()} == {f"{t}{suffix}" for t in tables for suffix in (".csv", ".tex")}
    assert len(written) == 2 * len(tables)


def test_the_tables_of_a_full_evaluation(tables):
    assert list(tables) == [
        "targets", "tried", "false_alarms", "held_out", "controls", "caught", "caught_changed", "attacks", "damage",
        "auroc_paper", "aupr_paper", "fpr95_paper", "auroc_more", "aupr_more", "fpr95_more", "pooled",
        "ablation_blocks", "attack_success", "foreign_flagged", "foreign_auroc", "cost",
    ]  # fmt: skip


def test_no_results_are_no_tables():
    assert evaluation_tables(Findings({"format": 1})) == {}


def test_the_false_alarms_table_has_a_row_a_drive_and_an_axis_that_holds_its_intervals(tables):
    table = tables["false_alarms"]
    assert [row[0].text for row in table.rows] == ["0001TP, fitted to others of it", "Seq05VD, never seen"]
    assert [column.title for column in table.columns[1:]] == [f"nominal {r}{NB}%" for r in (1, 5, 10)]
    for n, column in enumerate(table.columns[1:], 1):
        assert column.bar >= max(column.asked, *(row[n].high for row in table.rows))


def test_settings_tell_the_severity_and_what_was_set():
    told = [({"severity": 3, "settings": {"quality": None}}, "severity 3"), ({"settings": {"eps": 0.01}}, "eps 0.01"),
            ({"severity": 1, "settings": {"quality": 90}}, "severity 1, quality 90"), ({}, "")]  # fmt: skip
    assert [settings_of(tried) for tried, _ in told] == [text for _, text in told]


def test_severities_are_columns_and_a_change_without_severity_has_its_own():
    table = evaluation_tables(Findings(made_up(pictures=False)))["caught"]
    assert [column.title for column in table.columns] == ["change", "as is", "severity 1", "severity 3", "severity 5"]
    by_change = {row[0].text: [cell is not None for cell in row[1:]] for row in table.rows}
    assert by_change["fog"] == [False, True, True, True]
    assert by_change["vertical flip"] == [True, False, False, False]


def test_a_table_of_ablations_begins_with_what_they_differ_from():
    results = made_up(pictures=False)
    assert [row[0].text for row in evaluation_tables(Findings(results))["ablation_blocks"].rows] == [
        "8 blocks", "16 blocks"
    ]  # fmt: skip
    results["config"]["varied"] = "daain"
    table = evaluation_tables(Findings(results))["ablation_blocks"]
    assert [row[0].text for row in table.rows] == ["DAAIN", "8 blocks", "16 blocks"]
    assert "mean and deviation over keys" in table.caption
    assert table.rows[0][1].seeds == 2
    for entry in results["monitors"]:
        if entry["name"] == "daain_16":
            entry["seeds"] = [0]
    table = evaluation_tables(Findings(results))["ablation_blocks"]
    first = next(r for r in results["rows"] if r["monitor"] == "daain" and r["set"] == "fog_1" and r["seed"] == 0)
    assert table.columns[1].title == "fog, severity 1"
    assert table.rows[0][1].text == f"{first['auroc']:.3f}"
    assert "under the first key" in table.caption


def test_counts_are_those_of_the_results():
    results = made_up(pictures=False)
    tables = evaluation_tables(Findings(results))
    fog = next(row for row in results["rows"] if row["monitor"] == "mahalanobis" and row["set"] == "fog_3")
    cell = next(row for row in tables["caught"].rows if row[0].text == "fog")[3]
    counts = fog["flagged"]["0.05"]
    assert (cell.hits, cell.images, [cell.low, cell.high]) == (counts["hits"], counts["images"], counts["interval"])
    changed = next(row for row in tables["caught_changed"].rows if row[0].text == "fog")[3]
    assert (changed.hits, changed.images) == tuple(fog["flagged_changed"]["0.05"][k] for k in ("hits", "images"))


def test_where_nothing_has_a_threshold_nothing_is_said_to_be_flagged_and_harmless_changes_are_ranked():
    results = made_up(pictures=False)
    assert "auroc_controls" not in evaluation_tables(Findings(results))
    for entry in results["monitors"]:
        entry["rates"], entry["thresholds"] = [], {}
    tables = evaluation_tables(Findings(results))
    assert not {"controls", "attacks", "caught", "false_alarms"} & set(tables)
    main = Findings(results).main
    ranked = next(r for r in results["rows"] if r["set"] == "jpeg_90" and r["monitor"] == main["name"])
    table = tables["auroc_controls"]
    column = [column.title for column in table.columns].index(label_of(main))
    row = next(row for row in table.rows if row[0].text.startswith("JPEG 90"))
    assert row[column].text.startswith(f"{ranked['auroc']:.3f}")
