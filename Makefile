# Mainly: `make demo` trains a small network with the callback, `make test` runs the suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Small matrices and small networks: two processes with one thread each beat one with two.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test quick lint lint-js bench docs clean

demo: $(VENV)/.installed-examples
	OMP_NUM_THREADS=1 $(BIN)/python examples/digits.py

test: lint
	$(PYTEST)

quick: $(VENV)/.installed-test
	$(PYTEST) -m "not slow"

lint: lint-js $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir build/import-linter

# The JavaScript of the front end; where npm is missing this says so and checks nothing.
lint-js:
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory node_modules/.installed && \
		npm run --silent lint; \
	else echo "lint-js: npm is not installed, the JavaScript is not checked"; fi

node_modules/.installed: package.json package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund --silent
	touch $@

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
	rm -rf $(VENV) build *.egg-info lightning_logs node_modules
