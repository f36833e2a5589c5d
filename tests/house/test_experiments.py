"""The committed experiments: every file can be carried out, and results beside it are of these settings."""

import json
from pathlib import Path

import pytest

from inlier.config import from_keywords, read_toml
from inlier.evaluation.experiments import EXPERIMENTS
from inlier.evaluation.study import Study

FILES = sorted((Path(__file__).parents[2] / "experiments").glob("*.toml"))
RESULTS = [file for file in FILES if (file.with_suffix("") / "results.json").is_file()]


def settings(file):
    table = read_toml(file)
    return table.pop("kind", None), table


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_committed_experiment_has_settings_that_can_be(file):
    kind, table = settings(file)
    from_keywords(Study if kind is None else EXPERIMENTS[kind], table, file.name)


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_committed_results_are_of_the_settings_beside_them(file):
    kind, table = settings(file)
    results = json.loads((file.with_suffix("") / "results.json").read_text(encoding="utf-8"))
    assert results.get("kind") == kind
    assert {name: results["config"][name] for name in table} == table
    assert file.stem in results["command"]


def test_there_are_committed_experiments_with_results():
    assert len(RESULTS) > 10
