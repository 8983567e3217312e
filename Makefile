# A fresh machine needs Python 3.11 and make; everything else is installed here, pinned, into .venv.
PYTHON ?= python3.11
PYTHON312 ?= python3.12
RECIPE ?= tiny
DATA ?= out/$(RECIPE)
RUN ?= runs/$(RECIPE)
# Further settings of the two stages: make preprocess PREPROCESS="--max_length=256 -- --direct_num_workers=2"
PREPROCESS ?=
TRAIN ?=
# On Dataflow: make preprocess RUNNER=DataflowRunner PROJECT=… REGION=… BUCKET=… SOURCE=gs://… (docs/howto/run_on_dataflow.md)
BEAM :=
ifdef RUNNER
ifdef BUCKET
DATA = gs://$(BUCKET)/oddsmill/$(RECIPE)
BEAM += --temp_location=gs://$(BUCKET)/tmp
endif
BEAM += --runner=$(RUNNER) $(if $(PROJECT),--project=$(PROJECT)) $(if $(REGION),--region=$(REGION))
endif
# Beam's options stand behind one bare --, ours first
WITH_BEAM = $(PREPROCESS) $(if $(BEAM),$(if $(findstring -- ,$(PREPROCESS) ),,--) $(BEAM))

VENV := .venv
RUN_PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
DATAFLOW_INSTALLED := $(VENV)/.installed-dataflow
TPU_INSTALLED := $(VENV)/tpu/.installed
# A lock file names every package, so nothing is resolved: pip would look past a pin that a package asks for with an extra
PINNED := -m pip install -qq --disable-pip-version-check --no-deps --require-hashes --requirement
PARITY_VENV := .venv-parity
PARITY_PYTHON := $(PARITY_VENV)/bin/python
PARITY_INSTALLED := $(PARITY_VENV)/.installed
# What `make bench-peers` compares with, each in an environment of its own. Tunix needs Python 3.12 and is left out
# without one.
PEERS := trl easydel $(if $(shell $(PYTHON312) --version 2>/dev/null),tunix)
PEERS_INSTALLED := $(PEERS:%=.venv-peers-%/.installed)
# EasyDeL imports torch and pillow, and names neither
PACKAGES_trl := trl==1.16.0 transformers==5.23.0 torch==2.13.0
PACKAGES_easydel := easydel==0.3.0 jax==0.9.2 flax==0.12.3 torch==2.13.0 pillow
PACKAGES_tunix := google-tunix==0.1.7 jax==0.12.0.1 flax==0.12.12
# Each begins with a half of the tests, of whole files: their fixtures are made once
TWO_WORKERS := --numprocesses=2 --dist=worksteal
# A link or an anchor that leads nowhere fails it. MkDocs advertises its second version at every build, unless told not to
BUILD_SITE = NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
# Further settings of a benchmark: make bench-peers BENCH="--data=hh --rounds=1"; what FILE=1 makes is filed
BENCH ?=
FILED = $(if $(FILE),--file)

.DEFAULT_GOAL := help
.PHONY: help setup preprocess train test test-slow test-parity campaign check docs plans bench bench-peers bench-gpu clean lock

help:  ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo "Variables: RECIPE=$(RECIPE) DATA=$(DATA) RUN=$(RUN) PREPROCESS='--key=value …' TRAIN='--key=value …'"

$(INSTALLED): requirements.lock pyproject.toml
	@echo "Setting up $(VENV): about a minute, once"
	@$(PYTHON) -m venv $(VENV)
	@$(RUN_PYTHON) $(PINNED) requirements.lock
	@$(RUN_PYTHON) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(INSTALLED)  ## Set up .venv: what every other target does first

# Eighty packages of Google's that only Dataflow and gs:// need
$(DATAFLOW_INSTALLED): requirements-dataflow.lock $(INSTALLED)
	@$(RUN_PYTHON) $(PINNED) requirements-dataflow.lock
	@touch $@

# TPU's compiler, of 200 MB, that only `train plan` needs here. In a folder of its own: where JAX finds it and no TPU, it
# complains at every start
$(TPU_INSTALLED): requirements-tpu.lock $(INSTALLED)
	@$(RUN_PYTHON) $(PINNED) requirements-tpu.lock --upgrade --target $(VENV)/tpu
	@touch $@

# PyTorch and transformers stay out of .venv: nothing but tests/parity may need them
$(PARITY_INSTALLED): requirements.lock pyproject.toml
	@echo "Setting up $(PARITY_VENV): some minutes, once"
	@$(PYTHON) -m venv $(PARITY_VENV)
	@$(PARITY_PYTHON) $(PINNED) requirements.lock
	@$(PARITY_PYTHON) -m pip install -qq --disable-pip-version-check --no-build-isolation --editable '.[parity]'
	@touch $@

preprocess: $(if $(filter DataflowRunner,$(RUNNER)),$(DATAFLOW_INSTALLED),$(INSTALLED))  ## Text to packed rows: recipes/RECIPE/preprocess.yaml -> DATA
	@$(RUN_PYTHON) -m oddsmill.pipeline run --config recipes/$(RECIPE)/preprocess.yaml --output=$(DATA) \
	  $(if $(SOURCE),--source.path='$(SOURCE)') $(WITH_BEAM)

train: preprocess  ## Rows to weights: recipes/RECIPE/train.yaml -> RUN (preprocesses first where needed)
	@$(RUN_PYTHON) -m oddsmill.train run --config recipes/$(RECIPE)/train.yaml --data=$(DATA) --run_dir=$(RUN) $(TRAIN)

test: $(INSTALLED)  ## The tests, but for the slow ones
	@$(RUN_PYTHON) -m pytest -m "not slow and not parity" $(TWO_WORKERS)

test-slow: $(DATAFLOW_INSTALLED) $(TPU_INSTALLED)  ## The slow proofs
	@$(RUN_PYTHON) -m pytest -m "slow and not parity" $(TWO_WORKERS)
	@$(RUN_PYTHON) -m pytest -m properties --hypothesis-profile=thousands $(TWO_WORKERS)

test-parity: $(PARITY_INSTALLED)  ## Beside live torch, transformers and peft, in an environment of their own
	@$(PARITY_PYTHON) -m pytest -m parity tests/parity

# Another SEED is other cases; CAMPAIGN="rows --count=200" is some of one attack (python -m tests.campaign --help)
SEED ?= 1
CAMPAIGN ?= all
campaign: $(DATAFLOW_INSTALLED)  ## Attacks at random on every part: hours
	@$(RUN_PYTHON) -m tests.campaign $(CAMPAIGN) --seed=$(SEED)

check: $(INSTALLED)  ## Format, lint, types, and the links of the documentation
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(BUILD_SITE)
	@$(RUN_PYTHON) -m pytest tests/docs/test_links.py

docs: $(INSTALLED)  ## Write the generated pages of docs/ anew, and the site to build/site
	@$(RUN_PYTHON) -m docs.make_reference
	@$(BUILD_SITE)
	@echo "build/site/index.html"

plans: $(TPU_INSTALLED)  ## Compile the plans of docs/howto/plan_a_run.md anew: half an hour
	@TPU_LIBRARY_PATH=$(VENV)/tpu/libtpu/libtpu.so $(RUN_PYTHON) -m docs.make_plans

bench: $(INSTALLED)  ## The benchmarks, each both sides in one run
	@$(RUN_PYTHON) -m bench.preprocess
	@$(RUN_PYTHON) -m bench.step $(FILED) $(BENCH)

.venv-peers-%/.installed:
	@echo "Setting up $(@D): some minutes, once"
	@$(if $(filter tunix,$*),$(PYTHON312),$(PYTHON)) -m venv $(@D)
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check $(PACKAGES_$*)
	@touch $@

bench-peers: $(INSTALLED) $(PEERS_INSTALLED)  ## Ours beside TRL, EasyDeL and Tunix: an hour
	@$(RUN_PYTHON) -m bench.peers $(FILED) $(BENCH)

bench-gpu: $(INSTALLED) .venv-peers-trl/.installed  ## On a machine with a GPU and .[cuda], beside TRL: ten minutes
	@rm -rf build/bench-gpu
	@$(RUN_PYTHON) -m bench.gpu both $(FILED) $(BENCH)

RESOLVE := uv pip compile pyproject.toml --extra pipeline --extra train --extra dev --extra docs \
  --python-version 3.11 --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --upgrade

lock:  ## Resolve the three lock files anew (needs uv)
	$(RESOLVE) --extra dataflow --extra s3 --output-file requirements-dataflow.lock
	@mkdir -p build
	grep -oE '^[a-zA-Z0-9._-]+==[^ ;\\]+' requirements-dataflow.lock > build/constraints.txt
	$(RESOLVE) --constraint build/constraints.txt --output-file requirements.lock
	$(RESOLVE) --extra tpu --constraint build/constraints.txt --output-file build/tpu.lock
	awk '/^[a-z]/{wanted = /^libtpu==/} wanted' build/tpu.lock > requirements-tpu.lock

clean:  ## Remove what was made (not the environments)
	rm -rf out runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
