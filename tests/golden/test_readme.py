"""What the README shows is what comes out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [path.relative_to(ROOT) for path in (README, *sorted((ROOT / "docs").rglob("*.md")))]


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


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page):
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("https:")]
    for link in links:
        path, _, place = link.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), link
        assert not place or place in places(there), link


def places(page):
    """What links to the headings of a page are called."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
