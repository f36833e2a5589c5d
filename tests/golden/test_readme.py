"""What the README shows is what comes out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_twelve_lines_print_what_the_readme_says():
    lines, printed = re.search(r"```python\n(.*?)```\s+```\n(.*?)```", README.read_text(), re.DOTALL).groups()
    ran = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert ran.stdout == printed


def test_every_command_of_the_readme_exists():
    from inlier.cli.main import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    shown = set(re.findall(r"^\$ inlier ([a-z]+)", README.read_text(), re.MULTILINE))
    assert shown, "the README shows no command"
    assert shown <= known


def test_every_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
