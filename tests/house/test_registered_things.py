"""Whatever has a name in a table can be made, says what it is, and is suggested to whoever mistypes it."""

import re

import pytest

from inlier.attacks.recipes import ALIASES, RECIPES, recipe_named
from inlier.backbones.load import BACKBONES, load_backbone
from inlier.datasets.table import DATASETS
from inlier.detectors.spec import DetectorSpec
from inlier.detectors.table import DETECTORS
from inlier.perturbations.table import PERTURBATIONS
from inlier.registry import Entry, Registry, nearest

TABLES = {"backbones": BACKBONES, "datasets": DATASETS, "detectors": DETECTORS, "perturbations": PERTURBATIONS}
ENTRIES = [
    (package, name) for package, table in TABLES.items() for name in table if table.entry(name).provider == "inlier"
]


@pytest.mark.parametrize(("package", "name"), ENTRIES)
def test_an_entry_resolves_to_something_documented_in_its_own_package(package, name):
    entry, factory = TABLES[package].entry(name), TABLES[package][name]
    assert callable(factory)
    assert factory.__doc__
    assert entry.target.startswith(f"inlier.{package}.")


@pytest.mark.parametrize("package", TABLES)
def test_a_table_takes_plugins_from_the_group_of_its_package(package):
    assert TABLES[package].group == f"inlier.{package}"


@pytest.mark.parametrize(("package", "name"), ENTRIES)
def test_an_entry_has_a_summary_of_one_line_and_a_dated_paper_if_any(package, name):
    entry = TABLES[package].entry(name)
    assert entry.summary.strip() == entry.summary != ""
    assert "\n" not in entry.summary
    assert not entry.summary.endswith(".")
    assert not entry.paper or re.search(r"(19|20)\d\d$", entry.paper)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_makes_an_attack_and_names_its_paper(name):
    recipe = RECIPES[name]
    assert recipe.factory().steps >= 1
    assert getattr(recipe.factory, "func", recipe.factory).__doc__
    assert re.search(r"(19|20)\d\d, arXiv:\d{4}\.\d{4,5}$", recipe.paper)


def test_a_recipe_is_found_by_its_name_and_by_an_alias():
    assert [recipe_named(name) for name in RECIPES] == list(RECIPES)
    assert {alias: recipe_named(alias) for alias in ALIASES} == ALIASES
    assert not set(ALIASES) & set(RECIPES)


@pytest.mark.parametrize(
    ("look_up", "mistyped", "meant"),
    [
        (recipe_named, "pdg", "pgd"),
        (recipe_named, "ifgms", "ifgsm"),
        (DetectorSpec.parse, "mahalonobis", "mahalanobis"),
        (DetectorSpec.parse, "dain(blocks=2)", "daain"),
        (lambda name: PERTURBATIONS[name], "vertical_filp", "vertical_flip"),
        (load_backbone, "streat", "street"),
        (load_backbone, "epsnet:weights.safetensors", "espnet"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(look_up, mistyped, meant):
    with pytest.raises(LookupError, match=f"Did you mean '{meant}'"):
        look_up(mistyped)


def test_a_name_that_is_near_nothing_is_answered_with_the_list():
    with pytest.raises(LookupError, match=f"There are: {', '.join(sorted(DETECTORS))}"):
        DETECTORS["zzz"]
    assert nearest("zzz", ["b", "a"]) == "There are: a, b."


def test_a_taken_name_is_refused_and_a_new_one_found():
    table = Registry("thing", {"one": Entry("builtins:int", "a number")})
    with pytest.raises(ValueError, match="There is a thing named 'one' already: builtins:int"):
        table.add("one", Entry("builtins:float", "another"))
    table.add("two", Entry("builtins:float", "another"))
    assert list(table) == ["one", "two"]
    assert table["two"] is float
    assert "two" in table
    assert "three" not in table


def test_a_backbone_says_whether_it_wants_weights():
    with pytest.raises(ValueError, match="has its weights in the package and takes no 'x'"):
        load_backbone("street:x")
    with pytest.raises(ValueError, match="write espnet:FILE"):
        load_backbone("espnet")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        load_backbone("espnet:nowhere.safetensors")
