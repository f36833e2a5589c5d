"""`__all__` is honest, and files hold nothing that they should not."""

import ast
import functools
import importlib
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import inlier

SOURCE = Path(find_spec("inlier").origin).parent
ROOT = SOURCE.parents[1]
MODULES = sorted(
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    for path in SOURCE.rglob("*.py")
    if path.name != "__init__.py"
)
FILES = sorted(
    path
    for folder in ("src", "tests", "docs", "benchmarks", "experiments", "examples")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md", ".toml", ".txt", ".json", ".html", ".csv", ".yaml", ".yml")
) + sorted(path for pattern in ("*.md", "*.toml", "Makefile") for path in ROOT.glob(pattern))
PYTHON = [path for path in FILES if path.suffix == ".py"]


@functools.cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path):
    return str(path.relative_to(ROOT))


def defined_in(module):
    """Public functions and classes at the top of a module."""
    return {
        node.name
        for node in tree(SOURCE.parent / (module.replace(".", "/") + ".py")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }


@functools.cache
def taken():
    """Names that modules of src import from another, or take from it as attributes, by that other module."""
    found = {module: set() for module in MODULES}
    for path in SOURCE.rglob("*.py"):
        nodes = list(ast.walk(tree(path)))
        called = {}
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module in found:
                found[node.module] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                called |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in called:
                found.get(called[node.value.id], set()).add(node.attr)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_names_in_all_exist(module):
    there = importlib.import_module(module)
    assert [name for name in there.__all__ if not hasattr(there, name)] == []
    assert len(set(there.__all__)) == len(there.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_what_other_modules_use_is_in_all(module):
    hidden = (defined_in(module) & taken()[module]) - set(importlib.import_module(module).__all__)
    assert not hidden, f"{module}.__all__ lacks {sorted(hidden)}"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_takes_what_another_keeps_to_itself(module):
    private = {name for name in taken()[module] if name.startswith("_")}
    assert not private, f"{sorted(private)} of {module} used elsewhere"


def test_the_package_shows_what_it_says():
    assert dir(inlier) == sorted(inlier.__all__)
    assert [name for name in inlier.__all__ if getattr(inlier, name, None) is None] == []
    with pytest.raises(AttributeError, match="no attribute 'Monitr'"):
        _ = inlier.Monitr


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_what_they_offer_are_documented(module):
    there = importlib.import_module(module)
    assert there.__doc__
    bare = [name for name in set(there.__all__) & defined_in(module) if not is_documented(vars(there)[name])]
    assert not bare, f"{module} has undocumented {sorted(bare)}"


def is_documented(thing):
    """A protocol may leave it to its methods to say what it is."""
    methods = [
        value for name, value in vars(thing).items() if (callable(value) and name[:1] != "_") or name == "__call__"
    ]
    told_by_methods = getattr(thing, "_is_protocol", False) and methods and all(method.__doc__ for method in methods)
    return bool(thing.__doc__ or told_by_methods)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_names_a_place_on_a_machine(path):
    # A place is a root and what follows it; written so that this line is none.
    places = r"(?<![\w.~}])/(?:work|home|root|Users|mnt|tmp)/\w"
    found = re.search(places, path.read_text(encoding="utf-8"))
    assert found is None, f"{name_of(path)}: {found.group()}"


UNPICKLERS = {"cPickle", "cloudpickle", "dill", "joblib", "pickle", "shelve"}
READING = {("torch", "load"), *((module, name) for module in UNPICKLERS for name in ("load", "loads", "Unpickler"))}


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_nothing_is_unpickled(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            # A test may write a pickle, to see it refused.
            assert "tests" in path.parts or not imported_roots(node) & UNPICKLERS, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in READING, node.lineno
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), node.value.lineno
            assert node.value.value is False, node.value.lineno


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_no_library_of_ready_made_models_is_imported(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not imported_roots(node) & {"torchvision", "timm"}, node.lineno


def imported_roots(node):
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    return {name.split(".")[0] for name in names}
