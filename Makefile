# Every target makes the virtual environment it needs. `make` alone lists them.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(VENV)/bin
# One thread a process: two BLAS threads on two busy cores are many times slower than one.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
# Two processes, since many tests wait for others; a file at a time, which shares what it has started.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-long mutants check format bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Two real streams learned live, in under two minutes
	$(BIN)/penstock demo

test: $(VENV)/.installed ## The tests, some ten minutes on two cores
	$(PYTEST) -m "not long" --durations=20

test-long: $(VENV)/.installed ## The tests and their long forms
	$(PYTEST)

mutants: $(VENV)/.installed ## Break the autoscalers' rules in every place, and count what no test sees
	$(BIN)/python tests/mutation/mutants.py

check: $(VENV)/.installed ## Formatting, lint, types, layers and tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -m "not long" --durations=20

format: $(VENV)/.installed ## Format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed ## The benchmark of the whole flow, against its floors and peers
	$(BIN)/penstock bench stream

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Penstock needs Python 3.11 or newer: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "On Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
