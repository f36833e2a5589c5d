# Everything happens in .venv; the only things asked of the machine are Python 3.11 or newer, make and git.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow bench golden clean

demo: .venv/core ## set up and run the main job on the embedded street scenes
	$(BIN)/inlier demo

test: .venv/dev ## set up, check and test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 -m "not slow"

slow: .venv/dev ## the tests that take long
	$(BIN)/python -m pytest -n 2 -m slow

bench: .venv/dev ## every benchmark, as ratios in one run
	$(BIN)/python benchmarks/run.py --threads 1

golden: .venv/dev ## write the golden files anew
	INLIER_REGENERATE=1 $(BIN)/python -m pytest tests/golden

clean: ## remove the environment and what tools left
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis inlier-demo

.venv/core: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/dev: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
