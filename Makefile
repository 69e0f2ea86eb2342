# Two commands do all set-up themselves: `make demo` and `make test`. `make` alone lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

# What may be set from outside: `make demo SERIES=folder`, `make test PYTEST_FLAGS="-k spool"` ...
PYTHON ?=#            the interpreter (3.11 or newer); empty: the first suitable one on PATH
TORCH_INDEX ?=#       one more package index for torch, such as PyTorch's own for its CPU or CUDA builds
PIP_FLAGS ?=#         more options for pip install
SERIES ?=#            make demo: a folder with a CT series of your own
PYTEST_FLAGS ?= -n 2 --dist loadfile
MINUTES ?= 60
OUT ?= training-output

VENV := .venv
BIN := $(VENV)/bin
PEERS := $(CURDIR)/.venv-peers
ORACLES := .venv-oracles
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev

export DCMQI_BIN ?= $(PEERS)/bin
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

.PHONY: demo
demo: $(INSTALLED) ## install, start the node, send it a CT series, show the segmentation (SERIES=folder: your own)
	@$(BIN)/dicomnode demo $(if $(SERIES),--series "$(SERIES)")

.PHONY: test
test: $(INSTALLED_DEV) peers ## install and run every test (REQUIRE_PEERS=1: a missing peer fails)
	@$(MAKE) --no-print-directory oracles || echo "make: tests against nnU-Net's and MONAI's own output will be skipped"
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -o faulthandler_timeout=300

CHECKS := check-format check-lint check-types check-imports check-dependencies check-dead-code

.PHONY: check
check: $(INSTALLED_DEV) ## format, lint, types, who imports whom, dependencies, dead code
	@$(MAKE) --no-print-directory --keep-going $(CHECKS)

.PHONY: $(CHECKS)
check-format: ; $(BIN)/ruff format --check .
check-lint: ; $(BIN)/ruff check .
check-types: ; $(BIN)/pyright
check-imports: ; $(BIN)/lint-imports --no-logo
check-dependencies: ; $(BIN)/deptry dicomnode
check-dead-code: ; $(BIN)/vulture

.PHONY: fix
fix: $(INSTALLED_DEV) ## format, and repair what ruff can repair
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(INSTALLED) ## time and memory of each step; prints a table and writes bench.json
	@$(BIN)/dicomnode bench

.PHONY: peers
peers: ## Orthanc, dcmtk, dicom3tools and dcmqi for the tests (as root on Debian or Ubuntu)
	@scripts/install_peers.sh "$(PEERS)" $(BIN)/python

.PHONY: oracles
oracles: $(INSTALLED_DEV) ## nnU-Net's and MONAI's own output on small models, for the tests (needs the network once)
	@scripts/oracles/make.sh $(VENV) $(ORACLES)

.PHONY: train-torso
train-torso: $(INSTALLED) ## train the shipped model again, on procedural phantoms only (MINUTES=60 OUT=folder)
	$(BIN)/python -m dicomnode.training.torso --minutes $(MINUTES) --out "$(OUT)"

.PHONY: clean
clean: ## remove everything that make made, the virtual environments too
	rm -rf $(VENV) "$(PEERS)" $(ORACLES) build dist *.egg-info demo-output bench.json
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find dicomnode tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@PYTHON="$(PYTHON)" scripts/make_venv.sh $(VENV)

# torch comes first and by itself, so that no other package's wish can bring another build of it.
$(INSTALLED): $(VENV)/bin/python constraints.txt pyproject.toml
	@echo "make: installing what the node needs into $(VENV); torch is the large part"
	$(PIP) setuptools
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) --no-build-isolation -e '.[all]'
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@echo "make: installing what the checks and tests need into $(VENV)"
	$(PIP) --no-build-isolation -e '.[all,dev]'
	@touch $@
