# The environment; VENV=path uses another one.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
DEMO ?= demo
COVER ?= tests

.PHONY: help setup demo test check coverage bench docs clean
help:  ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: $(VENV)/.setup  ## install the package with the tested versions; needs no compiler

$(VENV)/.setup: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[board,timm]'
	touch $@

# torch-scatter compiles against the installed torch: an isolated build or a cached wheel would be for another one.
$(VENV)/.setup-dev: $(VENV)/.setup
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --no-cache-dir --no-binary torch-scatter torch-scatter
	touch $@

demo: $(VENV)/.setup  ## simulate a screen, train ERM and ABRA on it; tables, figures, bundle and report
	$(BIN)/python examples/quickstart.py $(DEMO)

test: $(VENV)/.setup-dev  ## every test, the slow ones too
	$(BIN)/python -m pytest -n auto --dist worksteal --runslow --doctest-modules abra_wilds leaderboard tests

check: $(VENV)/.setup-dev  ## lint, spelling, types and the quick tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files -z | xargs -0 $(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto

coverage: $(VENV)/.setup-dev  ## lines and branches of the package and the board that quick tests reach, at least 93 % (COVER=tests/board: of some)
	$(BIN)/python -m pytest -n auto --cov $(if $(filter tests,$(COVER)),,--cov-fail-under=0) --cov-report=term:skip-covered $(COVER)

bench: $(VENV)/.setup  ## time, FLOPs and memory of steps of ABRA and others, against ERM
	$(BIN)/python examples/benchmarks/bench_step.py --json bench.json

docs: $(VENV)/.setup-dev  ## the pages of docs/ as a site in site/; a broken link is an error
	$(BIN)/python -m mkdocs build --strict

clean:  ## remove what the commands above made, but not the environment
	rm -rf $(DEMO) site bench.json .coverage* .pytest_cache .mypy_cache .ruff_cache
