"""What the documents tell the reader to do is done here, in their order, and what they print is what comes out.

In a `console` block a line that starts with `$ ` is a command (a backslash continues it); what follows is its output on
stdout and stderr, progress left out, and `...` stands for anything. A `python` or `toml` block that starts with
`# file.py` becomes that file, any other is run. Each document has an empty folder of its own.
"""

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import inlier

README = Path(__file__).parents[2] / "README.md"
DOCS = README.with_name("docs")
DOCUMENTS = sorted(
    page for page in DOCS.rglob("*.md") if re.search(r"^```(console|python|toml)$", page.read_text(), re.MULTILINE)
)
PROGRESS = re.compile(r"^[^\n:]+: \d+ of \d+(, .*)?\n", re.MULTILINE)
SAME = doctest.OutputChecker()


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    for match in re.finditer(r"^```(console|python|toml)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def commands(block: str) -> Iterator[tuple[str, str]]:
    for match in re.finditer(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
        yield match[1], match[2]


def run(arguments: list[str] | str, folder: Path) -> str:
    if isinstance(arguments, str) and arguments.startswith("inlier ") and not set("|&;<>$") & set(arguments):
        code, printed = inlier(shlex.split(arguments.replace("\\\n", ""))[1:], folder, folder.with_suffix(".log"))
        assert code == 0, f"{arguments}\n{printed}"
        return PROGRESS.sub("", printed)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(
        arguments, shell=isinstance(arguments, str), cwd=folder, env=environment, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert ran.returncode == 0, f"{arguments}\n{ran.stdout}"
    return PROGRESS.sub("", ran.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_what_a_document_tells_to_do_is_what_happens(page, tmp_path):
    for language, block in blocks(page):
        if language == "console":
            assert block.startswith("$ "), f"a console block of {page.name} starts with no command"
            for command, expected in commands(block):
                got = run(command, tmp_path)
                if expected:
                    assert SAME.check_output(expected, got, doctest.ELLIPSIS), f"$ {command}\n{expected}---\n{got}"
        elif named := re.match(r"# (\S+\.(?:py|toml|csv))\n", block):
            (tmp_path / named[1]).write_text(block)
        else:
            run([sys.executable, "-c", block], tmp_path)


@pytest.mark.slow
def test_real_scenes_in_the_readme_are_what_comes_out(data, tmp_path):
    (tmp_path / "data").symlink_to(data.resolve())
    _, section = README.read_text().split("\n## Real driving scenes", 1)
    section, _ = section.split("\n## ", 1)
    (network,) = set(re.findall(r"espnet:data\S+", section))
    told = [
        pair for block in re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL) for pair in commands(block)
    ]
    assert len(told) == 5
    for command, expected in told:
        got = run(command.replace("espnet:...", network), tmp_path)
        assert SAME.check_output(expected.rstrip() + "\n", got, doctest.ELLIPSIS), f"$ {command}\n{expected}---\n{got}"


def test_every_link_of_the_documents_leads_somewhere():
    links = [(page, link) for page in DOCS.rglob("*.md") for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())]
    assert links
    assert [
        (page.name, link) for page, link in links if not link.startswith("http") and not (page.parent / link).exists()
    ] == []
