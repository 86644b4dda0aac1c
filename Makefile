# Headroom: `make serve` and `make test` need only make and Python 3.11 or later.

PYTHON ?= python3
VENV   ?= .venv
HOST   ?= 127.0.0.1
PORT   ?= 8000
WORKERS ?= 1
ARGS   ?=
TORCH_FLAGS ?=
MYPY_FLAGS ?=
# One test process more than cores, since tests of pages wait; at most four: each may load PyTorch.
TEST_PROCESSES ?= --numprocesses $(shell $(PYTHON) -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))') --dist worksteal

RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --quiet install

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test check format bench grid fuzz hostile audit pins clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F '|' '{printf "%-14s %s\n", $$1, $$2}'
	@echo
	@echo "  HOST=$(HOST) PORT=$(PORT) WORKERS=$(WORKERS) PYTHON=$(PYTHON) VENV=$(VENV)"
	@echo "  ARGS=... goes to pytest, bench, grid, fuzz and hostile; TORCH_FLAGS=... to pip where it installs PyTorch"

serve: $(VENV)/.serve ## Start the app on HOST:PORT
	@$(RUN) -m app serve --host $(HOST) --port $(PORT) --workers $(WORKERS)

# Bytecode is written: the processes that tests start would compile the app each time.
test: $(VENV)/.validation ## Run every test, browser tests included
	@chromium=$$(.ci/chromium) && CHROMIUM="$$chromium" PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest $(TEST_PROCESSES) $(ARGS)

check: $(VENV)/.dev ## Check format, lint and types
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy $(MYPY_FLAGS)

format: $(VENV)/.dev ## Format the code and fix lint
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .

bench: $(VENV)/.validation ## Time an estimate and a trace of the same request
	@$(RUN) -m validation bench $(ARGS)

grid: $(VENV)/.validation ## Compare random requests with their traces
	@$(RUN) -m validation grid $(ARGS)

fuzz: $(VENV)/.dev ## Send requests that schemathesis makes to a server
	@$(RUN) -m tests.app.api.schemathesis_run $(ARGS)

hostile: $(VENV)/.dev ## Send mutated requests to the application, --parsers to its parsers
	@$(RUN) -m tests.hostile $(ARGS)

audit: ## Look up known vulnerabilities of the pinned versions (needs pip-audit and the network)
	pip-audit --requirement requirements/serve.txt --require-hashes --disable-pip --strict $(ARGS)

COMPILE := uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make pins"

pins: ## Pin the requirements again (needs uv; ARGS=--upgrade for newer releases)
	$(COMPILE) $(ARGS) --output-file requirements/serve.txt
	$(COMPILE) $(ARGS) --extra dev --constraints requirements/serve.txt --output-file requirements/dev.txt
	$(COMPILE) $(ARGS) --extra validation --constraints requirements/dev.txt --excludes requirements/torch.txt \
		--excludes requirements/stand_ins.in --output-file requirements/validation.txt

clean: ## Remove the environment and every cache
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp file marks an installed set of requirements. Why torch is separate: see docs/decisions.

$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed. Name a Python 3.11 or later: make PYTHON=..."; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Headroom needs Python 3.11 or later, and $(PYTHON) is $$($(PYTHON) -V). Name another: make PYTHON=python3.12"; exit 1; } >&2
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.serve: requirements/serve.txt | $(VENV)/.python
	@echo "Installing the app's requirements"
	@$(PIP) --require-hashes --no-deps -r $<
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.serve
	@echo "Installing the requirements of checks and tests"
	@$(PIP) --require-hashes --no-deps -r $<
	@touch $@

$(VENV)/.validation: requirements/torch.txt requirements/validation.txt $(VENV)/.dev
	@echo "Installing PyTorch and the libraries that estimates are compared with (this can take minutes)"
	@$(PIP) $(TORCH_FLAGS) -r requirements/torch.txt
	@$(PIP) --require-hashes --no-deps -r requirements/validation.txt
	@touch $@
