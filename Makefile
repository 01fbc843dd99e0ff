# The workbench from a fresh checkout: `make lab` opens it, `make test` checks it.
# Needs python3 (3.11 or newer) with venv, and make; everything else comes from requirements.lock.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help setup lab app test lint unit slow notebooks browser figures baselines bench lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## create .venv with exactly the locked packages

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "the venv module is missing: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)

lab: $(READY)  ## JupyterLab on the first notebook
	$(BIN)/workbench lab $(ARGS)

app: $(READY)  ## only the panel, as a page (Voila)
	$(BIN)/workbench lab --app $(ARGS)

test: lint unit notebooks browser  ## everything that CI checks

lint: $(READY)  ## style, types, one-way imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(READY)  ## unit and property tests
	$(BIN)/workbench warmup
	$(BIN)/python -m pytest tests -m "not browser and not slow" -n auto --dist loadfile $(ARGS)

slow: $(READY)  ## the long suites: thousands of random guests with every index checked
	$(BIN)/python -m pytest tests -m slow $(ARGS)

notebooks: $(READY)  ## execute every notebook
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=60 notebooks -p no:cacheprovider

browser: $(READY)  ## drive the panel in a real browser
	$(BIN)/python -m pytest tests/e2e -m browser

figures: $(READY)  ## default figures and every experiment into figures/
	$(BIN)/workbench figures

baselines: $(READY)  ## renew the pictures that guard the look of charts, after a wanted change
	PYTHONPATH=. $(BIN)/python tests/charts/look.py

bench: $(READY)  ## benchmarks, printed as ratios
	$(BIN)/workbench bench

lock:  ## renew requirements.lock (needs uv)
	uv pip compile pyproject.toml --group dev --extra app --extra cluster --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --no-header --no-emit-index-url --upgrade -o requirements.lock
	! grep -nE '://|^-' requirements.lock

clean:  ## remove what can be made again
	rm -rf $(VENV) build dist figures .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
