# Two commands for a start: `make demo`, then `make ui`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo ui test test-slow lint format bench pictures clean

help:  ## Say what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## Make .venv with the locked versions

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "WITHIN needs Python 3.11 or newer, however this is " + sys.version.split()[0] + "; set PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(STAMP)

demo: $(STAMP)  ## Ingest, train, evaluate, score and publish on real data
	$(BIN)/within demo

ui: $(STAMP)  ## Dagster and MLflow in the browser
	$(BIN)/within ui

test: $(STAMP)  ## All fast tests
	$(BIN)/python -m pytest -n 2

test-slow: $(STAMP)  ## The tests that need daemons, a browser or minutes
	$(BIN)/python -m pytest -m slow $(SLOW)

lint: $(STAMP)  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## What is fast, as ratios against what a user would write instead
	$(BIN)/python -m benchmarks.nightly

pictures: $(STAMP)  ## The documentation's pictures, from the running UI (make ui) and an installed chromium
	$(BIN)/python docs/make_pictures.py

clean:  ## Remove the demo's lake tables, databases and models; landing files stay
	rm -rf .within
	find data_lake -mindepth 1 -maxdepth 1 -type d ! -name landing -exec rm -rf {} +
