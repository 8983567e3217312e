# A fresh machine needs Python 3.11 and make; everything else is installed here, pinned, into .venv.
PYTHON ?= python3.11
RECIPE ?= tiny
DATA ?= out/$(RECIPE)
RUN ?= runs/$(RECIPE)
# Further settings of the two stages: make preprocess PREPROCESS="--max_length=256 -- --direct_num_workers=2"
PREPROCESS ?=
TRAIN ?=

VENV := .venv
RUN_PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help preprocess train test test-slow check bench clean lock

help:  ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo "Variables: RECIPE=$(RECIPE) DATA=$(DATA) RUN=$(RUN) PREPROCESS='--key=value …' TRAIN='--key=value …'"

$(INSTALLED): requirements.lock pyproject.toml
	@echo "Setting up $(VENV): about a minute, once"
	@$(PYTHON) -m venv $(VENV)
	@$(RUN_PYTHON) -m pip install -qq --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(RUN_PYTHON) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

preprocess: $(INSTALLED)  ## Text to packed rows: recipes/RECIPE/preprocess.yaml -> DATA
	@$(RUN_PYTHON) -m pipeline run --config recipes/$(RECIPE)/preprocess.yaml --output=$(DATA) $(PREPROCESS)

train: preprocess  ## Rows to weights: recipes/RECIPE/train.yaml -> RUN (preprocesses first where needed)
	@$(RUN_PYTHON) -m train run --config recipes/$(RECIPE)/train.yaml --data=$(DATA) --run_dir=$(RUN) $(TRAIN)

test: $(INSTALLED)  ## The tests, but for the slow ones
	@$(RUN_PYTHON) -m pytest -m "not slow" --numprocesses=2

test-slow: $(INSTALLED)  ## The slow proofs
	@$(RUN_PYTHON) -m pytest -m slow

check: $(INSTALLED)  ## Format, lint and types
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy

bench: $(INSTALLED)  ## The benchmarks, each both sides in one run
	@$(RUN_PYTHON) -m bench.preprocess
	@$(RUN_PYTHON) -m bench.step

lock:  ## Resolve requirements.lock anew (needs uv)
	uv pip compile pyproject.toml --extra pipeline --extra train --extra dev --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --upgrade --output-file requirements.lock

clean:  ## Remove what was made (not .venv)
	rm -rf out runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
