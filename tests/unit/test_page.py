"""The report is one file that needs nothing else and says what the results say."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from checked_page import Checker

from inlier.evaluation.results import CleanRow, Picture, Results, TrialRow
from inlier.report.markup import percent
from inlier.report.page import Axis, data_url, heated, label, page, strips, write_page

COLUMNS = ("monitor", "mahalanobis", "max_softmax")


def picture(changed=0.5, flagged=True):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 8, 16, generator=generator)
    labels = torch.randint(2, (8, 16), generator=generator)
    return Picture(image, image.flip(-1), labels, labels.flip(-1), torch.rand(8, 16), changed, 0.0123, flagged)


def row(name, kind, caught=0.75, evaded=1):
    by_column = dict.fromkeys(COLUMNS, caught)
    return TrialRow(
        name, f"{name} label", kind, 8, 0.42, dict.fromkeys(COLUMNS, 0.987), by_column, 7, evaded, (2.0, 9.0)
    )


@pytest.fixture
def results():
    none, many = dict.fromkeys(COLUMNS, 0), dict.fromkeys(COLUMNS, 17)
    kinds = {"fog": "perturbation", "fgsm": "attack", "evasion": "adaptive attack"}
    return Results(
        network="a network <under test>", parameters=1234567, classes=("sky", "road"), size=(8, 16),
        colours=((1, 2, 3), (250, 128, 0)), detectors=COLUMNS[1:], fitted={"summer": 60}, calibrated="cross-fitted",
        false_alarm_rate=0.05, thresholds=dict.fromkeys(COLUMNS, 3.0),
        clean=(
            CleanRow("summer", True, 20, 0.07, none, (0.5, 1.0)), CleanRow("moon", False, 20, 0.31, many, (3.5, 80.0)),
        ),
        trials=tuple(row(name, kind) for name, kind in kinds.items()),
        pictures={name: picture() for name in kinds},
        milliseconds=(10.0, 12.3), seconds={"drawing": 4.2, "fog": 1.0}, seed=7, command="inlier demo --seed 7",
    )  # fmt: skip


def text_of(results):
    return re.sub(r"\s+", " ", Checker(page(results)).text)


def test_every_tag_is_closed_in_its_turn(results):
    assert Checker(page(results)).open == []


def test_the_page_asks_for_nothing_from_outside(results):
    html = page(results)
    checked = Checker(html)
    assert not set(checked.tags) & {"script", "link", "iframe", "object", "base"}
    sources = [value for _, name, value in checked.attributes if name in ("src", "href", "srcset")]
    assert sources
    assert all(value.startswith("data:image/webp;base64,") for value in sources)
    assert "url(" not in html
    assert "@import" not in html
    assert "http" not in html


def test_the_page_is_written_whole_and_small(results, tmp_path):
    write_page(tmp_path / "new" / "report.html", results)
    written = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert written == page(results)
    assert written.rstrip().endswith("</html>")
    assert len(written) < 5_000_000


def test_it_says_what_was_monitored_tried_and_observed(results):
    text = text_of(results)
    for told in (
        "1,234,567 parameters", "60 of summer", "cross-fitted", "fog label 8 scenes", "42 %", "75 %", "AUROC 0.987",
        "1 of 7", "17 of 20", "p-value 0.012", "10.0 ms", "12.3 ms", "inlier demo --seed 7", "never seen",
    ):  # fmt: skip
        assert told in text


def test_it_explains_the_scores_that_it_shows_and_no_others(results):
    text = text_of(results)
    assert "MSP: how unsure the network says it is" in text
    assert "profile:" not in text
    assert "takes another" not in text
    default = ("mahalanobis", "profile", "disagreement")
    clean = tuple(replace(row, alarms=dict.fromkeys(("monitor", *default), 0)) for row in results.clean)
    columns = dict.fromkeys(("monitor", *default), 3.0)
    text = text_of(replace(results, detectors=default, thresholds=columns, trials=(), pictures={}, clean=clean))
    assert "MSP" not in text
    assert "second look: how much further the prediction moves" in text
    assert "the second look takes another" in text


def test_it_promises_nothing(results):
    text = text_of(results).lower()
    assert "observed" in text
    for word in ("robust", "secure", "guarantee"):
        assert word not in text


def test_names_cannot_break_the_page(results):
    html = page(results)
    assert "<under test>" not in html
    assert "a network &lt;under test&gt;" in html


def test_a_page_without_attacks_is_a_page(results):
    alone = replace(results, trials=results.trials[:1])
    assert Checker(page(alone)).open == []


def test_silence_on_a_damaged_image_is_marked_and_on_a_harmless_change_is_not(results):
    for changed, flagged, badge in ((0.5, True, "badge alarm"), (0.5, False, "badge silent"), (0.1, False, "badge ")):
        html = page(replace(results, pictures=dict.fromkeys(results.pictures, picture(changed, flagged))))
        badges = {value for _, name, value in Checker(html).attributes if name == "class" and "badge" in value}
        assert badges == {badge}


def test_dots_lie_right_of_the_threshold_exactly_where_flagged(results):
    axis = Axis.over([0.5, 1.0, 3.5, 80.0, 2.0, 9.0], threshold=3.0)
    lines = strips(results, axis, 3.0)
    assert [line.title for line in lines] == ["summer", "moon", "fog label", "fgsm label", "evasion label"]
    for line in lines:
        for x, y, alarm in line.dots:
            assert 0 <= x <= 100
            assert 0 <= y <= 100
            assert alarm == (x > axis.place(3.0))
    places = [place for place, _ in axis.ticks()]
    assert places == sorted(places)


@pytest.mark.parametrize("threshold", [3.0, 0.0, -7.0])
def test_the_axis_holds_all_scores_whatever_the_sign_of_the_threshold(threshold):
    scores = [-1e3, -7.5, 0.0, 2.0, 1e5]
    axis = Axis.over(scores, threshold)
    places = [axis.place(score) for score in scores]
    assert places == sorted(places)
    assert places[0] >= 0
    assert places[-1] <= 100
    assert 0 <= axis.place(threshold) <= 100


def test_a_share_is_never_rounded_to_none_or_all():
    assert [percent(share).replace("\xa0", "") for share in (0, 0.001, 0.05, 0.5, 0.999, 1)] == [
        "0%", "<1%", "5%", "50%", ">99%", "100%",
    ]  # fmt: skip


def test_a_label_is_for_people_and_an_unknown_column_keeps_its_name():
    assert (label("max_softmax"), label("my_detector")) == ("MSP", "my_detector")


def test_heat_grows_brighter():
    colours = heated(np.array([[0.0, 0.25, 0.5, 0.75, 1.0]])).astype(int).sum(-1)[0]
    assert (np.diff(colours) > 0).all()


def test_grey_pictures_are_shown_too():
    assert data_url(np.zeros((4, 4, 1), np.uint8)).startswith("data:image/webp;base64,")
