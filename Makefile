# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make demo    set up .venv, then run the whole path on scenes that it makes itself
#   make test    set up .venv, then lint, type-check and run every test
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test fast lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/stillroom demo

test: lint
	$(BIN)/python -m pytest --numprocesses auto

fast: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses auto -m "not slow"

lint: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/codespell

# torch first and alone: with it in place no later requirement can choose another build.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "stillroom needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,hf]"
	touch $@

clean:
	rm -rf $(VENV)
