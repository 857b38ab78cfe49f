# Mainly: `make demo` trains a small network with the callback (`make demo ARGS=--fast`: in half a
# minute), `make test` runs the suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Small matrices and small networks: two processes with one thread each beat one with two.
# Each takes half of the tests in order, and then from the other: what a module sets up is set up once.
# Bytecode is kept: without it each process rewrites all assertions and compiles the package anew.
KEPT := PYTHONDONTWRITEBYTECODE=
PYTEST := $(KEPT) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OLDEST := .venv-oldest
ECOSYSTEM := .venv-ecosystem

.PHONY: demo test quick test-oldest ecosystem lint lint-js bench docs figures clean

demo: $(VENV)/.installed-examples
	OMP_NUM_THREADS=1 $(BIN)/python examples/digits.py $(ARGS)

test: lint
	$(PYTEST)

quick: $(VENV)/.installed-test
	$(PYTEST) -m "not slow"

# The everyday tests with the oldest versions the package declares, torch excepted.
test-oldest: $(OLDEST)/.installed
	$(KEPT) OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest --numprocesses 2 --dist worksteal -m "not slow"

# Short trainings inside libraries that build on Lightning, without and with the callback. The set-up
# takes minutes; this is no part of the tests.
ecosystem: $(ECOSYSTEM)/.installed
	OMP_NUM_THREADS=1 $(ECOSYSTEM)/bin/python ecosystem/run.py --into docs/ecosystem.md

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

figures: $(VENV)/.installed-docs
	$(BIN)/python docs/architecture_picture.py
	$(BIN)/python docs/formats_page.py
	OMP_NUM_THREADS=1 $(BIN)/python examples/strange_pictures.py --out docs/images
	OMP_NUM_THREADS=1 $(BIN)/python examples/gallery.py --images docs/images --page docs/gallery.md

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(OLDEST)/.installed: pyproject.toml constraints.txt constraints-oldest.txt
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints-oldest.txt "$$(grep '^torch==' constraints.txt)" setuptools --editable ".[test]"
	touch $@

# Torch first: whatever asks for it later then finds the pinned one.
$(ECOSYSTEM)/.installed: pyproject.toml constraints.txt ecosystem/requirements.txt
	$(PYTHON) -m venv --clear $(ECOSYSTEM)
	$(ECOSYSTEM)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt torch pytorch-lightning lightning
	$(ECOSYSTEM)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --requirement ecosystem/requirements.txt --editable .
	touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) $(ECOSYSTEM) build *.egg-info lightning_logs node_modules
