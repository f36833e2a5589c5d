"""The help of every command is what was last agreed on. `INLIER_REGENERATE=1 pytest tests/golden` agrees anew."""

import os
from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from inlier.cli.main import app

GOLDEN = Path(__file__).parent / "help"
COMMANDS = sorted(get_command(app).commands)
TYPER = "0.29"
PAGES = {"inlier": ["--help"]} | {f"inlier_{name}": [name, "--help"] for name in COMMANDS}


@pytest.mark.skipif(not typer.__version__.startswith(f"{TYPER}."), reason=f"the pages are as Typer {TYPER} sets them")
@pytest.mark.parametrize("page", PAGES)
def test_help_is_what_was_agreed_on(page, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    result = CliRunner().invoke(app, PAGES[page], prog_name="inlier")
    assert result.exit_code == 0
    text = "\n".join(line.rstrip() for line in result.output.splitlines()) + "\n"
    golden = GOLDEN / f"{page}.txt"
    if os.environ.get("INLIER_REGENERATE"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_no_page_is_left_of_a_command_that_is_gone():
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == sorted(PAGES)


def test_every_option_says_what_it_is():
    for name, command in get_command(app).commands.items():
        assert command.help, name
        bare = [parameter.name for parameter in command.params if not parameter.help and parameter.name != "help"]
        assert not bare, f"{name}: {bare}"
