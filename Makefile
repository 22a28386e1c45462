# `make demo` and `make test` set themselves up: a .venv with exactly what requirements.lock pins.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Oversubscribed threads are five times slower; parallelism is between processes.
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help setup demo test test-fast lint format lock ui clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.installed  ## The .venv, from the lock

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "Python 3.11 or 3.12 is needed, $(PYTHON) is neither; try: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "setting up $(VENV) from requirements.lock (some 7 GB once; two to four minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  --config-settings editable_mode=compat -e .
	@touch $@

demo: setup  ## The whole pipeline: build the data, train, evaluate, report
	@$(BIN)/python ray_jobs/demo.py

test: setup  ## All tests
	$(BIN)/python -m pytest

test-fast: setup  ## The tests that need no Ray
	$(BIN)/python -m pytest -m "not integration"

lint: setup  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## Let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## Compile requirements.lock again (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-header -o requirements.lock

ui: setup  ## MLflow, Dagster and Ray dashboards on loopback
	@$(BIN)/python ray_jobs/ui.py

clean:  ## Remove what the pipeline made (not the .venv)
	rm -rf outputs
