# Everything runs in .venv, which `make setup` makes; every target makes it when it is missing.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
INPUT ?= examples/data
OUTPUT ?= out
# Most tests wait for something; three workers keep two cores busy. A file stays with one worker,
# and files go out in the order of `tests/conftest.py`: long ones first.
WORKERS ?= 3
# Tests of stores wait for the disk most of the time; in memory they don't, where there is enough.
MEMORY := $(shell [ "$$(df --output=avail -BG /dev/shm 2>/dev/null | tail -1 | tr -dc 0-9)" -ge 8 ] \
    2>/dev/null && [ -w /dev/shm ] && echo PYTEST_DEBUG_TEMPROOT=/dev/shm)
PYTEST = $(MEMORY) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests

# Two runs in one checkout take turns where they share a cache, and only there.
LOCKED := $(shell command -v flock >/dev/null 2>&1 && echo flock .venv/.lint-lock)

.PHONY: help
help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Make .venv with the server, the client and the tools.
	@.ci/setup

.PHONY: serve
serve: setup ## Run the server on http://127.0.0.1:8000 (settings: AGENTZERO_*).
	@exec $(BIN)/agentzero serve

.PHONY: demo
demo: setup ## Profile the files of INPUT into OUTPUT with two agents, live.
	@exec $(BIN)/agentzero demo --input '$(INPUT)' --output '$(OUTPUT)'

.PHONY: mock
mock: setup ## Serve the contract's examples on http://127.0.0.1:8080.
	@exec $(BIN)/agentzero mock

.PHONY: lint
lint: setup ## Format, lint, types, import rules, contract.
	@$(LOCKED) $(MAKE) --no-print-directory lint-alone

.PHONY: lint-alone
lint-alone:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/openapi-spec-validator openapi.yaml
	$(BIN)/bandit --quiet --recursive server hive handlers storage clients

.PHONY: test
test: lint ## Every check of a change: lint, tests, coverage.
	coverage=$$(mktemp -d); trap 'rm -rf "$$coverage"' EXIT; \
	COVERAGE_FILE=$$coverage/data $(PYTEST) \
	    --cov --cov-branch --cov-report=term --cov-fail-under=90

# pytest answers 5 when it found no test to run.
RUN_MARKED = $(MEMORY) $(BIN)/python -m pytest -m $(1) || [ $$? -eq 5 ]

.PHONY: test-more
test-more: setup ## The long tests.
	$(call RUN_MARKED,more)

.PHONY: soak
soak: setup ## Hours of faults and load.
	$(call RUN_MARKED,soak)

.PHONY: soak-hive
soak-hive: setup ## 100,000 tasks on three nodes while all around them is killed (SOAK_TASKS=..., SOAK_KEEP=1).
	$(MEMORY) $(BIN)/python -m pytest -m soak tests/faults/test_several.py \
	    -o log_cli=true -o log_cli_level=INFO

.PHONY: bench
bench: setup ## Measurements.
	$(call RUN_MARKED,bench)
	$(BIN)/python -m benchmarks.claims --keep
	$(BIN)/python -m benchmarks.login
	$(BIN)/python -m benchmarks.operations
	$(BIN)/python -m benchmarks.pipeline

.PHONY: bench-limits
bench-limits: setup ## How exact the shared rate limits are: a million decisions.
	$(BIN)/python -m benchmarks.limits

.PHONY: bench-dispatch
bench-dispatch: setup ## What a task costs, beside Celery and taskiq: twenty minutes.
	.ci/bench

.PHONY: scan
scan: setup ## Scan a running server with wapiti.
	$(MEMORY) .ci/scan

.PHONY: release-contract
release-contract: setup ## Keep a copy of the contracts as released (REPLACE=1: again).
	$(BIN)/agentzero contract release contracts/released $(if $(REPLACE),--replace)

.PHONY: clean
clean: ## Remove what was built and cached; data directories stay.
	rm -rf .venv .venv-scan .venv-bench build dist *.egg-info clients/python/*.egg-info \
	    .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
