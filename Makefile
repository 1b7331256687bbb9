# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make demo    set up .venv, then run the whole path on scenes that it makes itself
#   make test    set up .venv, then lint, type-check and run the tests
# Less and more than that: `make fast`, and `make soak`, which CI runs as well; on a GPU `make gpu`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal

.PHONY: demo test fast gpu soak lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/stillroom demo

test: lint
	$(PYTEST) -m "not soak"

fast: $(VENV)/installed
	$(PYTEST) -m "not slow and not soak"

# One process: they share the GPU.
gpu: $(VENV)/installed
	$(BIN)/python -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "torch sees no GPU: install a torch for CUDA in $(VENV)")'
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/bench_gpu.py --out runs/bench_gpu

soak: $(VENV)/installed
	$(PYTEST) -m "soak or properties" --hypothesis-profile long

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
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV)
