# Mainly: `make demo` trains a small network with the callback, `make test` runs the suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Small matrices and small networks: two processes with one thread each beat one with two.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test quick lint bench docs clean

demo: $(VENV)/.installed-examples
	OMP_NUM_THREADS=1 $(BIN)/python examples/digits.py

test: lint
	$(PYTEST)

quick: $(VENV)/.installed-test
	$(PYTEST) -m "not slow"

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir build/import-linter

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/bench_analyze.py

# The pages of docs/ with the API reference, in build/docs; a warning is an error.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs build/docs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info lightning_logs
