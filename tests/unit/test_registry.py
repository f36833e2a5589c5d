"""The registry suggests the nearest name, refuses a clash, imports nothing before it is needed, and takes plugins."""

import math
import sys

import pytest

from inlier.errors import Mismatch, Unavailable
from inlier.registry import Entry, Line, Registry, cites, nearest


@pytest.fixture
def table():
    return Registry(
        "thing",
        {
            "mahalanobis": Entry("math:sqrt", "a distance", "Mahalanobis 1936"),
            "energy": Entry("math:exp", "an energy"),
            "broken": Entry("no_such_module:f", "nothing"),
        },
    )


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package as pip would: its modules, and what it offers in the group `inlier.things`."""

    def install(package, offers, version="1.0", **modules):
        place = tmp_path / package
        information = place / f"{package}-{version}.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        offered = "".join(f"{name} = {target}\n" for name, target in offers.items())
        (information / "entry_points.txt").write_text(f"[inlier.things]\n{offered}")
        for name, text in modules.items():
            (place / f"{name}.py").write_text(text)
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(place)

    return install


def test_a_name_is_its_factory(table):
    assert table["mahalanobis"] is math.sqrt
    assert table.entry("mahalanobis").paper == "Mahalanobis 1936"


def test_an_unknown_name_gets_the_nearest(table):
    with pytest.raises(LookupError) as error:
        table["mahalonobis"]
    assert str(error.value) == "No thing named 'mahalonobis'. Did you mean 'mahalanobis'?"


def test_a_name_near_to_none_gets_the_whole_list(table):
    with pytest.raises(LookupError, match=r"No thing named 'xyz'. There are: broken, energy, mahalanobis\."):
        table.entry("xyz")


def test_nothing_is_imported_before_it_is_asked_for(table):
    assert "broken" in table
    with pytest.raises(Unavailable, match=r"'broken' of inlier .* No module named 'no_such_module'\. Install"):
        table["broken"]


def test_names_come_sorted_and_can_be_asked_for(table):
    assert list(table) == ["broken", "energy", "mahalanobis"]
    assert "energy" in table
    assert "enrgy" not in table


def test_a_line_can_be_added_and_a_clash_is_refused(table):
    table.add("knn", Entry("math:log", "neighbours"))
    assert table["knn"] is math.log
    with pytest.raises(ValueError, match="There is a thing named 'knn' already: math:log"):
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


FACTORIES = '''
from inlier.registry import cites


@cites("Sun et al. 2022")
def knn(anatomy):
    """Distance to the nearest clean image.

    More of it.
    """


class Rain:
    """Rain before the lens"""

    paper = "Hendrycks 2019"


def bare():
    pass


number = 3
'''


def test_a_plugin_is_found_and_says_itself_what_it_is(table, install):
    install("inlier-rain", {"knn": "rain_things:knn", "rain": "rain_things:Rain [fast]"}, "2.1", rain_things=FACTORIES)
    assert {"knn", "rain", "energy"} <= set(table)
    assert table["rain"].__name__ == "Rain"
    lines = {line.name: line for line in table.lines()}
    assert lines["knn"] == Line("knn", "Distance to the nearest clean image", "inlier-rain 2.1", "Sun et al. 2022")
    assert lines["rain"] == Line("rain", "Rain before the lens", "inlier-rain 2.1", "Hendrycks 2019")
    assert lines["energy"] == Line("energy", "an energy", "inlier", "")


def test_a_plugin_without_a_docstring_is_listed_without_a_summary(table, install):
    install("silent", {"bare": "silent_things:bare"}, silent_things=FACTORIES)
    assert Line("bare", "", "silent 1.0", "") in list(table.lines())


def test_no_plugin_is_imported_by_asking_which_names_there_are(table, install):
    install("careless", {"careless": "careless_things:f"}, careless_things="raise RuntimeError('imported')")
    assert "careless" in table
    assert table["energy"] is math.exp
    with pytest.raises(LookupError, match="Did you mean 'careless'"):
        table["carelss"]
    assert "careless_things" not in sys.modules


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("bad_things:f", "ZeroDivisionError: division by zero"),
        ("absent_things:f", "ModuleNotFoundError: No module named 'absent_things'"),
        ("leaving_things:f", "SystemExit: goodbye"),
        ("good_things:no", "AttributeError: module 'good_things' has no attribute 'no'"),
        ("good_things", "AttributeError"),
        ("good_things:number", "int is no factory. Name a function or a class"),
    ],
)
def test_a_plugin_that_does_not_load_spoils_its_own_name_and_no_other(table, install, target, reason):
    modules = {"bad_things": "1 / 0", "leaving_things": "raise SystemExit('goodbye')", "good_things": FACTORIES}
    install("bad", {"bad": target, "knn": "good_things:knn"}, **modules)
    with pytest.raises(Unavailable, match=f"The thing 'bad' of bad 1.0 .* cannot be used: {reason}"):
        table["bad"]
    assert table["energy"] is math.exp
    assert table["knn"].__name__ == "knn"
    problems = {line.name: line.problem for line in table.lines()}
    assert reason in problems.pop("bad")
    assert set(problems.values()) == {""}


def test_a_plugin_that_says_what_it_lacks_is_heard(table, install):
    text = "from inlier.errors import Unavailable\nraise Unavailable('needs faiss: pip install x[faiss]')"
    install("lacking", {"lacking": "lacking_things:f"}, lacking_things=text)
    with pytest.raises(Unavailable, match=r"^needs faiss: pip install x\[faiss\]$"):
        table["lacking"]


def test_two_packages_that_claim_a_name_are_both_named_and_neither_is_guessed(table, install):
    install("one", {"energy": "one_things:knn", "rain": "one_things:Rain"}, one_things=FACTORIES)
    install("two", {"rain": "two_things:Rain", "snow": "two_things:Rain"}, two_things=FACTORIES)
    assert table["mahalanobis"] is math.sqrt
    assert table["snow"].__name__ == "Rain"
    with pytest.raises(Mismatch, match=r"'energy' is claimed by inlier \(math:exp\) and one 1.0 \(one_things:knn\)"):
        table["energy"]
    with pytest.raises(Mismatch, match=r"(one|two) 1.0 \(.*\) and (two|one) 1.0 \(.*\)\. Uninstall or rename"):
        table["rain"]
    marked = [(line.name, line.provider) for line in table.lines() if "claimed by" in line.problem]
    assert sorted(marked) == [("energy", "inlier"), ("energy", "one 1.0"), ("rain", "one 1.0"), ("rain", "two 1.0")]
    with pytest.raises(ValueError, match="There is a thing named 'rain' already"):
        table.add("rain", Entry("math:log"))


def test_a_name_that_no_text_could_ask_for_is_refused(table, install):
    install("dashing", {"my-thing": "dashing_things:Rain"}, dashing_things=FACTORIES)
    with pytest.raises(Unavailable, match="a name has letters, digits and underscores alone"):
        table["my-thing"]


def test_plugins_can_be_switched_off(install, monkeypatch):
    install("other", {"energy": "other_things:Rain", "rain": "other_things:Rain"}, other_things=FACTORIES)
    monkeypatch.setenv("INLIER_PLUGINS", "0")
    alone = Registry("thing", {"energy": Entry("math:exp", "an energy")})
    assert list(alone) == ["energy"]
    assert alone["energy"] is math.exp


def test_a_citation_is_an_attribute_of_the_factory():
    assert cites("Sun et al. 2022")(Registry).paper == "Sun et al. 2022"
    del Registry.paper
