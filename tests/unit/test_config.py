"""Tables make what registered factories make, and refuse what their signatures do not have."""

import pytest

from inlier.config import call_text, from_keywords, from_table, read_toml, used
from inlier.perturbations.table import PERTURBATIONS
from inlier.registry import Entry, Registry


def thing(place, size, *, sides=(1, 1), name_of_it=None):
    """Gives back what it was called with."""
    return place, size, sides, name_of_it


def anything(**settings):
    """Takes what comes."""
    return settings


THINGS = Registry("thing", {name: Entry(f"{__name__}:{name}", "what it got") for name in ("thing", "anything")})


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The table above finds its factories by this module's name."""
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__, type(sys)(__name__)))
    for factory in (thing, anything):
        monkeypatch.setattr(sys.modules[__name__], factory.__name__, factory, raising=False)


def test_a_table_is_a_name_and_keyword_arguments():
    made = from_table(THINGS, {"name": "thing", "size": 3, "sides": [[1, 2], {"a": [3]}]}, "here")
    assert made == ("here", 3, ((1, 2), {"a": (3,)}), None)
    assert from_table(THINGS, {"name": "anything", "colour": "red"}) == {"colour": "red"}
    assert from_table(PERTURBATIONS, {"name": "fog", "severity": 3}).severity == 3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "thing", "sizes": 3}, "thing 'thing' has no setting 'sizes'. Did you mean 'si(z|d)es?'"),
        ({"name": "thing", "place": 3, "size": 1}, "has no setting 'place'"),
        ({"name": "thing"}, "thing 'thing' needs the setting 'size'"),
        ({"size": 3}, "A thing needs a name. There are: anything, thing"),
        ({"name": ["thing"]}, "A thing needs a name"),
    ],
)
@pytest.mark.parametrize("function", [lambda table: from_table(THINGS, table, "here"), lambda t: used(THINGS, t, 1)])
def test_what_the_signature_has_not_is_refused(function, table, message):
    with pytest.raises(ValueError, match=message):
        function(table)


def test_a_mistyped_name_is_answered_with_the_nearest():
    with pytest.raises(LookupError, match="Did you mean 'thing'"):
        from_table(THINGS, {"name": "thang"})


def test_what_was_used_has_every_default_in_it():
    table = {"name": "thing", "size": [3]}
    assert used(THINGS, table, 1) == {"name": "thing", "size": (3,), "sides": (1, 1), "name_of_it": None}
    assert used(THINGS, used(THINGS, table, 1), 1) == used(THINGS, table, 1)


def test_a_known_factory_is_called_with_its_table():
    assert from_keywords(thing, {"place": 1, "size": 2}, "it") == (1, 2, (1, 1), None)
    with pytest.raises(ValueError, match=r"it has no setting 'plaice'\. Did you mean 'place'"):
        from_keywords(thing, {"plaice": 1, "size": 2}, "it")


def test_one_text_stands_for_equal_settings():
    assert call_text(thing, "thing", {"sides": [1, 1], "size": 2}) == "thing(size=2)"
    assert call_text(thing, "thing", {"size": 2}) == call_text(thing, "thing", {"size": 2, "name_of_it": None})
    assert call_text(thing, "thing", {"sides": [2, 1]}) == "thing(sides=(2, 1))"


def test_toml_is_read_and_what_is_none_is_refused_with_its_line(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text('a = [1, 2]\n[b]\nc = "ü"\n', encoding="utf-8")
    assert read_toml(file) == {"a": [1, 2], "b": {"c": "ü"}}
    file.write_text("a = 1\na = \n")
    with pytest.raises(ValueError, match=r"x\.toml' is no TOML file: .*line 2"):
        read_toml(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is no TOML file"):
        read_toml(file)
    with pytest.raises(FileNotFoundError, match=r"No file .*y\.toml"):
        read_toml(tmp_path / "y.toml")
