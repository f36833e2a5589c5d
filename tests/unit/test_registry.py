"""The registry suggests the nearest name, refuses a clash, and imports nothing before it is needed."""

import math

import pytest

from inlier.registry import Entry, Registry, nearest


@pytest.fixture
def table():
    return Registry(
        "detector",
        {
            "mahalanobis": Entry("math:sqrt", "a distance", "Mahalanobis 1936"),
            "energy": Entry("math:exp", "an energy"),
            "broken": Entry("no_such_module:f", "nothing"),
        },
    )


def test_a_name_is_its_factory(table):
    assert table["mahalanobis"] is math.sqrt
    assert table.entry("mahalanobis").paper == "Mahalanobis 1936"


def test_an_unknown_name_gets_the_nearest(table):
    with pytest.raises(LookupError) as error:
        table["mahalonobis"]
    assert str(error.value) == "No detector named 'mahalonobis'. Did you mean 'mahalanobis'?"


def test_a_name_near_to_none_gets_the_whole_list(table):
    with pytest.raises(LookupError, match=r"No detector named 'xyz'. There are: broken, energy, mahalanobis\."):
        table.entry("xyz")


def test_nothing_is_imported_before_it_is_asked_for(table):
    assert "broken" in table
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        table["broken"]


def test_names_come_sorted_and_can_be_asked_for(table):
    assert list(table) == ["broken", "energy", "mahalanobis"]
    assert "energy" in table
    assert "enrgy" not in table


def test_a_line_can_be_added_and_a_clash_is_refused(table):
    table.add("knn", Entry("math:log", "neighbours"))
    assert table["knn"] is math.log
    with pytest.raises(ValueError, match="There is a detector named 'knn' already: math:log"):
        table.add("knn", Entry("math:exp", "others"))
    assert table["knn"] is math.log


def test_a_table_does_not_share_its_lines_with_what_it_was_made_of():
    lines = {"a": Entry("math:exp", "")}
    Registry("thing", lines).add("b", Entry("math:log", ""))
    assert list(lines) == ["a"]


@pytest.mark.parametrize(
    ("name", "answer"),
    [("fogg", "Did you mean 'fog'?"), ("Frost", "Did you mean 'frost'?"), ("rain", "There are: fog, frost.")],
)
def test_nearest_says_what_is_there(name, answer):
    assert nearest(name, ["frost", "fog"]) == answer
