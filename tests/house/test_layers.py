"""A module imports only from its own layer and from those below it, and no import goes round in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest

SOURCE = Path(find_spec("inlier").origin).parent
LAYERS = (
    "types errors registry files config",
    "backbones",
    "images",
    "sampling",
    "taps",
    "anatomy readers spool origin readings_file observation looks probe",
    "densities.bijections",
    "densities",
    "detectors",
    "calibration",
    "clean_readings verdict artefact cross_fitting monitor",
    "attacks",
    "perturbations",
    "datasets",
    "evaluation",
    "streams",
    "report",
    "testing",
    "cli",
)
"""Lowest first; a line is a layer."""


def module_name(path):
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def layer(module):
    """The number of the layer whose name is the longest that the module's begins with."""
    held = [
        (len(name), number)
        for number, line in enumerate(LAYERS)
        for name in line.split()
        if f"{module}.".startswith(f"inlier.{name}.")
    ]
    return max(held)[1]


def imported(module):
    """What a module imports of inlier, wherever in it and also for type checking: (module, name or None)."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.split(".")[0] == "inlier")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively (line {node.lineno})"
            if node.module.split(".")[0] == "inlier":
                for alias in node.names:
                    inside = f"{node.module}.{alias.name}"
                    yield (inside, None) if inside in MODULES else (node.module, alias.name)


EDGES = {module: set(imported(module)) for module in MODULES}


@pytest.mark.parametrize("module", [name for name in MODULES if name != "inlier"])
def test_every_module_has_a_layer(module):
    assert layer(module) >= 0


@pytest.mark.parametrize("module", [name for name in MODULES if name != "inlier"])
def test_imports_go_downwards(module):
    upwards = {target for target, _ in EDGES[module] if layer(target) > layer(module)}
    assert not upwards, f"{module} imports from above: {sorted(upwards)}"


def test_imports_are_acyclic():
    graph = {module: {target for target, _ in targets} for module, targets in EDGES.items() if module != "inlier"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", MODULES)
def test_a_name_is_imported_from_the_module_that_defines_it(module):
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    through = {f"{target}.{name}" for target, name in EDGES[module] if target in packages}
    assert not through, f"{module} imports through a package: {sorted(through)}"


def test_nobody_but_the_command_line_sees_the_command_line():
    seen = {
        module
        for module, targets in EDGES.items()
        if not module.startswith("inlier.cli") and any(target.startswith("inlier.cli") for target, _ in targets)
    }
    assert not seen
