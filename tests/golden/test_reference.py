"""The reference is made from the code: `make golden` writes it anew, and these tests compare."""

import ast
import importlib
import inspect
import itertools
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from inlier.cli.main import app

PAGES = Path(__file__).parents[2] / "docs" / "reference"
SOURCE = Path(find_spec("inlier").origin).parent
TYPER = "0.29"
COMMANDS = get_command(app).commands
MADE = "<!-- Made from the code by `make golden`. -->\n"


def agree(page, text):
    if os.environ.get("INLIER_REGENERATE"):
        (PAGES / page).parent.mkdir(exist_ok=True)
        (PAGES / page).write_text(text, encoding="utf-8")
    assert text == (PAGES / page).read_text(encoding="utf-8"), "changed: `make golden` writes the reference anew"


@pytest.mark.skipif(not typer.__version__.startswith(f"{TYPER}."), reason=f"the page is as Typer {TYPER} sets it")
def test_the_reference_of_commands_is_their_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    sections = []
    for words in ([], *([name] for name in sorted(COMMANDS))):
        result = CliRunner().invoke(app, [*words, "--help"], prog_name="inlier")
        assert result.exit_code == 0
        lines = "\n".join(line.rstrip() for line in result.output.strip().splitlines())
        sections.append(f"## {' '.join(['inlier', *words])}\n\n```\n{lines}\n```\n")
    agree("commands.md", "\n".join(["# Commands\n", MADE, *sections]))


def test_every_option_says_what_it_is():
    for name, command in COMMANDS.items():
        assert command.help, name
        bare = [parameter.name for parameter in command.params if not parameter.help and parameter.name != "help"]
        assert not bare, f"{name}: {bare}"


def first_line(thing):
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def constants(module):
    """The docstring below an assignment, by the name assigned to."""
    body = ast.parse(inspect.getsource(module)).body
    for statement, following in itertools.pairwise(body):
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        if (
            isinstance(target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            yield target.id, str(following.value.value).partition("\n")[0]


def test_the_reference_of_python_is_what_modules_say_of_themselves():
    sections = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(name)
        if not getattr(module, "__all__", None) or name.startswith("inlier.cli") or name == "inlier":
            continue
        told = dict(constants(module))
        rows = []
        for public in sorted(module.__all__):
            thing = getattr(module, public)
            own = inspect.isclass(thing) or inspect.isfunction(thing)
            rows.append(f"* `{public}`: {first_line(thing) if own else told.get(public, 'a constant or type')}")
        sections.append(f"## {name}\n\n{first_line(module)}\n\n" + "\n".join(rows) + "\n")
    agree("python.md", "\n".join(["# Python\n", MADE, "`help(name)` in Python says the rest.\n", *sections]))
