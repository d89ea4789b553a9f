# Two commands: `make demo` runs all of Narrowgate on this machine, `make test` checks all of it.
# They need Python 3.11 or later with venv, gcc and make; all else comes into .venv, pinned by hash, from wheels alone.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PINS := requirements-bootstrap.txt requirements.txt requirements-embedded.txt requirements-dev.txt
IS_GOOD := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
DIGEST = $(firstword $(shell cat $(1) | sha256sum))

# What is installed, and from which pins. The tests need more than the demo does, and never less.
DEMO_STAMP := $(VENV)/.demo-$(call DIGEST,requirements-bootstrap.txt requirements.txt requirements-embedded.txt)
TEST_STAMP := $(VENV)/.test-$(call DIGEST,$(PINS))
# What is compiled, and from which sources: the modules that have a .pxd beside them.
TYPES := $(shell find proxyworker -name '*.pxd')
COMPILED_STAMP := $(VENV)/.compiled-$(call DIGEST,setup.py $(TYPES) $(TYPES:.pxd=.py))

.PHONY: demo test test-slow lint bench pins compile clean help

help:
	@echo 'make demo       run everything here, in the foreground; Ctrl-C stops it'
	@echo 'make test       linters, types, import rules, Django checks, tests (some minutes)'
	@echo 'make test-slow  the long tests: the demo end to end, crashes, volumes'
	@echo 'make lint       only the linters and types; "make format" writes what ruff would have'
	@echo 'make bench      pgbench and bulk reads: direct, through pgbouncer, through the gate'
	@echo 'make pins       renew the pins of requirements*.txt from requirements*.in'
	@echo 'make clean      remove what make has made, but not var/'

demo: $(DEMO_STAMP) compile
	@exec $(BIN)/python -m controlplane.supervisor

test: lint
	NARROWGATE_MODE=test $(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	$(BIN)/python -m tests.deploy_check
	$(BIN)/python -m pytest -n 2 -m 'not slow'

# The whole stack has the machine to itself: its tests press Ctrl-C, kill, and measure memory.
test-slow: $(TEST_STAMP) compile
	$(BIN)/python -m pytest -n 2 -m slow --ignore tests/e2e --ignore tests/proxyworker/process
	$(BIN)/python -m pytest -m slow tests/e2e tests/proxyworker/process

lint: $(TEST_STAMP) compile
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	NARROWGATE_MODE=test $(BIN)/mypy .
	$(BIN)/lint-imports

.PHONY: format
format: $(TEST_STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(TEST_STAMP) compile
	$(BIN)/python -m tests.bench

$(BIN)/uv: requirements-bootstrap.txt
	@python=; for name in python3.11 python3.12 python3.13 python3; do \
	  if $$name -c '$(IS_GOOD)' 2>/dev/null; then python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo 'make: needs Python 3.11 or later with venv (Debian: apt-get install python3.11-venv)' >&2; exit 1; fi; \
	echo "making $(VENV) with $$($$python --version)"; \
	$$python -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
	  --requirement requirements-bootstrap.txt
	@touch $@

# Whatever is in the environment and in no pin would hide a missing pin, so it is removed.
SYNC := $(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --only-binary :all:

$(TEST_STAMP): $(BIN)/uv
	@echo 'installing the pinned packages, with those for the tests'
	@$(SYNC) $(PINS)
	@rm -f $(VENV)/.demo-* $(VENV)/.test-* && touch $(DEMO_STAMP) $@

$(DEMO_STAMP): $(BIN)/uv
	@echo 'installing the pinned packages'
	@$(SYNC) $(filter-out requirements-dev.txt,$(PINS))
	@rm -f $(VENV)/.demo-* $(VENV)/.test-* && touch $@

compile:
	@[ -e $(COMPILED_STAMP) ] || $(MAKE) --no-print-directory $(COMPILED_STAMP)

# A compiled module that is older than its source would hide it, so the old ones go first.
$(COMPILED_STAMP):
	@rm -f $(VENV)/.compiled-*; find proxyworker -name '*.so' -delete
	@if command -v gcc >/dev/null && \
	  $(BIN)/python -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'; \
	then \
	  echo 'compiling the data path'; \
	  $(BIN)/python setup.py --quiet build_ext --inplace --force; \
	else \
	  echo 'no gcc, or no Python.h: the data path runs interpreted, and slower'; \
	fi
	@touch $@

COMPILE_PINS := $(BIN)/uv pip compile --quiet --upgrade --only-binary :all: --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make pins'
pins: $(BIN)/uv
	$(COMPILE_PINS) requirements-bootstrap.in --output-file requirements-bootstrap.txt
	$(COMPILE_PINS) requirements.in --output-file requirements.txt
	$(COMPILE_PINS) --constraint requirements.txt requirements-embedded.in --output-file requirements-embedded.txt
	$(COMPILE_PINS) --constraint requirements.txt --constraint requirements-embedded.txt requirements-dev.in \
	  --output-file requirements-dev.txt

clean:
	rm -rf $(VENV) build staticfiles .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find controlplane accounts targets policies sessions proxyworker tests \
	  \( -name '__pycache__' -o -name '*.so' -o -name '*.c' \) -prune -exec rm -rf {} +
