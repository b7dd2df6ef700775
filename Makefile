# Two commands: `make demo` shows the shipped policy at work, `make test` checks everything. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
# Tests run in this many processes of one thread each: as many as there are cores, at most four.
PROCESSES ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((cores < 4 ? cores : 4)))

.PHONY: help demo test test-install wheel setup lint format clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: setup ## play every task with the shipped weights; a report of videos, and all bodies in one
	$(BIN)/polysoma evaluate generalist --tasks '*' --episodes 1 --seed 1000 --report out/demo --json out/demo/results.json

test: setup lint ## linter, formatter, type checker, tests
	$(BIN)/python -m pytest -n $(PROCESSES) --dist worksteal tests

test-install: ## install into an empty environment and run every block of the docs there (PYTHON=python3.12; half an hour)
	$(PYTHON) tests/interop/check_install.py

wheel: ## a wheel for other machines, in dist
	rm -rf build dist
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

lint: setup ## linter, formatter, type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## fix what linter and formatter can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/.ready ## install everything into .venv

# Modules are compiled when they are first imported, which most of what is installed never is.
$(VENV)/.ready: pyproject.toml constraints.txt tools/install_libraries.sh
	@echo "setting up $(VENV), which takes some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	bash tools/install_libraries.sh $(BIN)/python
	touch $@

clean: ## delete .venv, out and caches
	rm -rf $(VENV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
