# Every target runs in .venv, which .ci/environment.py makes from constraints.txt at the first call and
# reuses until pyproject.toml or constraints.txt changes.
PYTHON ?= python3
EXTRAS ?=
ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help environment demo test lint ruff bench docs clean

help:
	@echo 'make demo    train a small model on handwritten digits, sample it, measure it'
	@echo 'make test    run the tests; some of them: make test ARGS="-k vp"'
	@echo 'make lint    ruff (lint and format) and pyright'
	@echo 'make bench   measure speed and memory'
	@echo 'make docs    build the documentation into docs/_build/html, with its packages installed beside the others'
	@echo 'make clean   remove .venv and the caches, keep data and runs'
	@echo
	@echo 'The first call makes .venv (one to two minutes); another interpreter: make demo PYTHON=python3.12'
	@echo 'On a GPU or TPU: make demo EXTRAS=cuda13, EXTRAS=cuda12 or EXTRAS=tpu'

demo: environment
	$(BIN)/python -m experiments.demo $(ARGS)

test: environment
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder $(ARGS)

lint: ruff
	$(BIN)/pyright

ruff: environment
	$(BIN)/ruff check
	$(BIN)/ruff format --check

bench: environment
	$(BIN)/python -m experiments.benchmarks $(ARGS)

# A warning is an error: a link that leads nowhere, a formula or a docstring that cannot be read.
docs:
	@$(MAKE) --no-print-directory environment EXTRAS="$(EXTRAS) docs"
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html $(ARGS)
	@echo 'open docs/_build/html/index.html'

clean:
	rm -rf .venv .pytest_cache .ruff_cache build *.egg-info docs/_api docs/_build docs/_notebooks
	find sde_lib models samplers experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The script runs under the interpreter of .venv where there is one, else under $(PYTHON); old ones cannot even read it.
IS_NEW := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
environment:
	@if $(BIN)/python $(IS_NEW) 2>/dev/null; then \
		$(BIN)/python .ci/environment.py $(EXTRAS); \
	elif $(PYTHON) $(IS_NEW) 2>/dev/null; then \
		$(PYTHON) .ci/environment.py $(EXTRAS); \
	else \
		echo "error: need Python >= 3.11, got $$($(PYTHON) --version 2>&1) from '$(PYTHON)'; choose another with PYTHON=python3.12" >&2; \
		exit 1; \
	fi
