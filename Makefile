PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# On Linux this is a large build for GPUs, unless an index of builds for a CPU is added.
TORCH ?= torch==2.13.0

# What evaluate-models measures: a folder of small, large and prm.
MODELS ?= models

.PHONY: help install run serve test lint types contracts check migrate bench-overhead models evaluate-models clean

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

install: $(VENV)/.stack ## Install the whole service into .venv (run and serve do it by themselves)

run: $(VENV)/.stack ## Solve the bundled sample with every role running, print what it cost
	@$(BIN)/python -m stack run

serve: $(VENV)/.stack ## Serve the API with every role running, until Ctrl-C
	@$(BIN)/python -m stack serve

test: $(VENV)/.dev ## Run the tests; those that need servers are skipped where there are none
	@$(BIN)/python -m pytest --cov=shared/domain --cov=shared/policies --cov-report=term-missing:skip-covered --cov-fail-under=100

lint: $(VENV)/.dev ## Check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.dev ## Check types
	@$(BIN)/mypy

contracts: $(VENV)/.dev ## Check who may import whom
	@$(BIN)/lint-imports

check: lint types contracts test ## Everything that must be green before a change lands

migrate: $(VENV)/.stack ## Bring the database of TRIM_DATABASE_URL to the newest schema
	@$(BIN)/python -m migrations upgrade

bench-overhead: $(VENV)/.dev ## Measure what the service adds to its models (needs RabbitMQ and Postgres)
	@$(BIN)/python -m bench.overhead

models: $(VENV)/.train ## Train models into .state/models/trained, or go on where training stopped (two hours on two cores)
	@mkdir -p .state/models && $(BIN)/python -u -m models.train 2>&1 | tee -a .state/models/log

evaluate-models: $(VENV)/.stack ## Measure the bundled models, or those in MODELS, on held-out problems, offline and through the service
	@$(BIN)/python -m models.evaluate --models $(MODELS)

clean: ## Remove the virtual environment and the embedded state
	@rm -rf $(VENV) .state
