# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs: a virtual environment with an editable install of the exact versions in
# requirements.lock, redone when setup.cfg, pyproject.toml or the lock change.
PYTHON ?= python3
VENV ?= .venv
VENV_OLDEST ?= .venv-oldest
VENV_NEWEST ?= .venv-newest
VENV_LOCK ?= .venv-lock
PYTEST_ARGS ?=
# One process per core, with one thread each: the test models are too small for more threads.
WORKERS ?= auto

# The lower bounds in setup.cfg; torchvision 0.26.0 is the version built for torch 2.11.0.
OLDEST = torch==2.11.0 torchvision==0.26.0 transformers==5.17.0 timm==1.0.23

.DEFAULT_GOAL := help
.PHONY: help demo demo-text paper-page test-fast test test-all test-gpu test-oldest test-newest quality style docs lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- environments ----------------------------------------------------------------------------------------------

# One pip call per set of extras, so that torch, torchvision and timm always come from the same index.
EXTRAS_demo = vision,train,plots
EXTRAS_dev = dev
EXTRAS_docs = docs

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

LOCK = requirements.lock

# The build requirements are locked too: no build isolation, where pip would install the newest.
$(VENV)/.installed-%: setup.cfg pyproject.toml $(LOCK) | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --constraint $(LOCK) setuptools
	$(VENV)/bin/python -m pip install --constraint $(LOCK) --no-build-isolation --editable ".[$(EXTRAS_$*)]"
	@touch $@

$(VENV_NEWEST)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV_NEWEST)
	$(VENV_NEWEST)/bin/python -m pip install --upgrade --upgrade-strategy eager --editable ".[dev]"
	@touch $@

$(VENV_OLDEST)/.installed: setup.cfg pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV_OLDEST)
	$(VENV_OLDEST)/bin/python -m pip install --editable ".[dev]" $(OLDEST)
	@touch $@

# --- run -------------------------------------------------------------------------------------------------------

demo demo-text test-fast test test-all test-gpu test-oldest test-newest: export HF_HUB_OFFLINE = 1
demo demo-text test-fast test test-all test-gpu test-oldest test-newest: export TOKENIZERS_PARALLELISM = false

demo: $(VENV)/.installed-demo ## images: train, add SideNets, plot accuracy against compute (no data needed)
	$(VENV)/bin/python examples/demo/demo_images.py

# Checked before anything is installed: the recipe is expanded first.
missing = $(strip $(foreach name,SIDENET_DATA SIDENET_BERT,$(if $($(name)),,$(name))))

demo-text: ## the same on SST-2; needs SIDENET_DATA (contains sst2/) and SIDENET_BERT (a BERT checkpoint folder)
	$(if $(missing),$(error demo-text: not set: $(missing) (SIDENET_DATA: folder with sst2/; SIDENET_BERT: folder with a BERT checkpoint and its tokenizer)))
	@$(MAKE) --no-print-directory $(VENV)/.installed-dev
	$(VENV)/bin/python examples/demo/demo_text.py

paper-page: $(VENV)/.installed-dev ## write docs/results/paper/index.md and its figures from the tables next to it
	$(VENV)/bin/python examples/paper/page.py

# --- maintain --------------------------------------------------------------------------------------------------

# Each tier includes the one before; pyproject.toml defines the markers. Slow tests without a marker are listed at the
# end.
RUN_TESTS = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile

test-fast: $(VENV)/.installed-dev ## everyday tests, in minutes
	$(RUN_TESTS) --durations 5 --durations-min 4 -m "not medium and not slow and not distributed" $(PYTEST_ARGS)

test: $(VENV)/.installed-dev ## all tests except slow and distributed ones; PYTEST_ARGS="-k gate" selects some
	$(RUN_TESTS) -m "not slow and not distributed" $(PYTEST_ARGS)

test-all: $(VENV)/.installed-dev ## all tests, as .ci/run does
	$(RUN_TESTS) $(PYTEST_ARGS)

# One GPU: the Trainer would split batches over several.
test-gpu: export CUDA_VISIBLE_DEVICES ?= 0

test-gpu: $(VENV)/.installed-dev ## tests that need a CUDA device, with a summary table; they skip without one
	$(VENV)/bin/python -m pytest tests/gpu -m gpu -rs $(PYTEST_ARGS)

test-oldest: $(VENV_OLDEST)/.installed ## tests of hf_sidenet/models on the oldest supported torch and transformers
	OMP_NUM_THREADS=1 $(VENV_OLDEST)/bin/python -m pytest tests/models --numprocesses $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-newest: $(VENV_NEWEST)/.installed ## all tests on the newest releases, ignoring the lock; may fail, and shows what broke
	OMP_NUM_THREADS=1 $(VENV_NEWEST)/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(PYTEST_ARGS)

quality: $(VENV)/.installed-dev ## lint, format, import rules, types, the oldest Python: checks only
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/vermin --config-file vermin.ini --quiet hf_sidenet examples tests

style: $(VENV)/.installed-dev ## fix what ruff can fix
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: export NO_MKDOCS_2_WARNING = 1

docs: $(VENV)/.installed-docs ## build the documentation into site/
	$(VENV)/bin/mkdocs build --strict

lock: ## update requirements.lock: the newest compatible versions, for Python 3.10 to 3.13
	test -x $(VENV_LOCK)/bin/uv || { $(PYTHON) -m venv $(VENV_LOCK) && $(VENV_LOCK)/bin/python -m pip install uv; }
	$(VENV_LOCK)/bin/uv pip compile setup.cfg --extra dev --extra docs --universal --python-version 3.10 --upgrade \
		--no-annotate --custom-compile-command "make lock" --output-file $(LOCK)

clean: ## remove build outputs and caches; keep the virtual environments
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name .git -prune -o -name '.venv*' -prune -o -type d -name __pycache__ -exec rm -rf {} +
