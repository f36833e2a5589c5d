"""The command line in this process, through the entry that the script has."""

import contextlib
import io
import json
import sys
import warnings
from dataclasses import dataclass

import pytest

from inlier.cli import main


@dataclass
class Ran:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def rows(self):
        return [json.loads(line) for line in self.out.splitlines()]


def inlier(*arguments):
    """Run a command in this process, through the entry that the script has."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        warnings.simplefilter("default")
        patch.setattr(sys, "argv", ["inlier", *map(str, arguments)])
        try:
            main.run()
        except SystemExit as ended:
            code = ended.code or 0
    return Ran(code, out.getvalue(), err.getvalue())
