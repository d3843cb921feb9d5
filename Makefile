# make demo | check | test | gpu-evidence | docs | setup | clean      (.venv is made once; PYTHON=python3.12 chooses the interpreter)
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin

# mypy runs beside the others. Each has a line of its own, as "a && b" fails the recipe for its last command alone.
define LINT
$(BIN)/mypy & types=$$!; trap wait EXIT
$(BIN)/ruff check .
$(BIN)/ruff format --check .
$(BIN)/lint-imports
wait $$types
endef
# As many tests at once as there are cores (`-n auto` takes two hyper-threads for one), each in one thread; a file's tests
# share what they set up. The files begin in the order of tests/conftest.py.
CORES = $$(OMP_NUM_THREADS= nproc 2>/dev/null || echo logical)
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.installed  ## set up if needed, pretrain on handwritten digits (minutes on two cores), print the table
	@$(BIN)/python -m effssl.train --config configs/digits.yaml --out "runs/demo-$$(date +%Y%m%d-%H%M%S)"

check: $(VENV)/.installed  ## set up if needed, then lint, types, import layers and the fast tests, in two minutes
	@$(LINT)
	$(PYTEST) -m "not slow"

test: $(VENV)/.installed  ## set up if needed, then lint, types, import layers and all tests, in up to 25 minutes
	@$(LINT)
	$(PYTEST)

test-slow: $(VENV)/.installed  ## 50 kills at random moments and half an hour of steps, beside each other
	@OMP_NUM_THREADS=1 EFFSSL_KILLS=50 EFFSSL_SOAK_S=1800 $(BIN)/pytest -n 2 -rP tests/train/test_faults.py

gpu-evidence: $(VENV)/.installed  ## what is to be measured on a GPU, eight minutes a call, each going on: DATA_DIR=DIR OUT=DIR
	@$(BIN)/python analysis/gpu_evidence.py --data-dir "$(or $(DATA_DIR),data)" --out "$(or $(OUT),runs/gpu-evidence)" $(FLAGS)

docs: $(VENV)/.installed  ## the pages of docs/ as a site: site/index.html, which needs no server
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	echo site/index.html

setup: $(VENV)/.installed  ## system packages that FFCV needs, virtual environment, this project

$(VENV)/.installed: pyproject.toml constraints.txt
	@python=$$(.ci/system-packages $(PYTHON))
	[ -x $(BIN)/python ] || "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]" -c constraints.txt ||
	{ echo "the tested versions cannot be had here; installing the newest" >&2; $(BIN)/python -m pip install --quiet -e ".[dev]"; }
	touch $@

clean:  ## remove the virtual environment, caches and the site (data/ and runs/ stay)
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache *.egg-info

.PHONY: help demo check test test-slow gpu-evidence docs setup clean
