# Every target runs in .venv, made from constraints.txt at the first call and reused until pyproject.toml or constraints.txt changes.
PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UNFINISHED := $(VENV)/.unfinished

.DEFAULT_GOAL := help
.PHONY: help demo test lint ruff bench clean

help:
	@echo 'make demo    train a small model on handwritten digits, sample it, measure it'
	@echo 'make test    run the tests; some of them: make test ARGS="-k vp"'
	@echo 'make lint    ruff (lint and format) and pyright'
	@echo 'make bench   measure speed and memory'
	@echo 'make clean   remove .venv and the caches, keep data and runs'
	@echo
	@echo 'The first call makes $(VENV) (one to two minutes); another interpreter: make demo PYTHON=python3.12'

demo: $(STAMP)
	$(BIN)/python -m experiments.demo $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile $(ARGS)

lint: ruff
	$(BIN)/pyright

ruff: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

bench: $(STAMP)
	$(BIN)/python -m experiments.benchmarks $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache build *.egg-info
	find sde_lib models samplers experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that this file began and did not finish is made anew; one that was complete, or made by hand, is only brought up to date.
$(STAMP): pyproject.toml constraints.txt
	@if [ -e $(UNFINISHED) ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		$(call need_python,$(PYTHON),choose another with PYTHON=python3.12); \
		echo "Making $(VENV) with $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv --clear $(VENV) && touch $(UNFINISHED) || exit 1; \
	fi; \
	$(call need_python,$(BIN)/python,remove $(VENV) and choose another with PYTHON=python3.12); \
	echo 'Installing the packages of constraints.txt into $(VENV) (one to two minutes the first time, seconds after)'; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -e '.[dev]' -c constraints.txt \
		&& rm -f $(UNFINISHED) && touch $@

need_python = $(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	|| { echo "need Python >= 3.11, got $$($(1) --version 2>&1) from '$(1)'; $(2)" >&2; exit 1; }
