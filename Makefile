# make demo | test | docs | setup | clean      (.venv is made once; PYTHON=python3.12 chooses the interpreter)
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin

help:  ## this list
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 8

demo: $(VENV)/.installed  ## set up if needed, pretrain on handwritten digits (minutes on two cores), print the table
	@$(BIN)/python -m effssl.train --config configs/digits.yaml --out "runs/demo-$$(date +%Y%m%d-%H%M%S)"

test: $(VENV)/.installed  ## set up if needed, then lint, types, import layers and all tests
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

docs: $(VENV)/.installed  ## the pages of docs/ as a site: site/index.html, which needs no server
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	echo site/index.html

setup: $(VENV)/.installed  ## system packages that FFCV needs, virtual environment, this project

$(VENV)/.installed: pyproject.toml
	@python=$$(.ci/system-packages $(PYTHON))
	[ -x $(BIN)/python ] || "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

clean:  ## remove the virtual environment, caches and the site (data/ and runs/ stay)
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache *.egg-info

.PHONY: help demo test docs setup clean
