# `make demo` and `make test` set up everything they need in .venv: Python 3.10 or newer is all that must be there.
#
#   PYTHON=python3.12    interpreter for the virtual environment
#   TORCH_INDEX=URL      further package index for torch. Where the default build of torch brings CUDA along and the
#                        machine has no GPU, give the index of CPU builds that PyTorch's "Get started" page shows.
#   PIP_ARGS='...'       further arguments of pip install, e.g. --find-links=DIR
#   PYTEST_ARGS='...'    further arguments of pytest, e.g. '-k persistence'

PYTHON ?= python3
TORCH_INDEX ?=
PIP_ARGS ?=
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
OLDEST := .venv-oldest
# A worker for each core, of one thread; four are enough. PYTEST_ARGS='-n 0' runs the tests in one process.
PYTEST := -m pytest -n logical --maxprocesses 4 --dist loadfile

.PHONY: help demo test test-oldest lint clean

help:
	@echo "make demo    redraw blocks with the networks that come along, teach one of them winter (5 minutes)"
	@echo "make test    linter, type checker and tests"
	@echo "make test-oldest    tests with the oldest libraries that are supported (Python 3.10 or 3.11)"
	@echo "make lint    linter and type checker"
	@echo "make clean   remove the virtual environment and caches"

demo: $(INSTALLED)
	$(BIN)/python demo.py

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) $(PYTEST_ARGS)

test-oldest: $(OLDEST)/installed
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python $(PYTEST) $(PYTEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy

# Written last, so that an interrupted installation is taken up again.
$(INSTALLED): constraints.txt constraints-no-deps.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
	    "Error: Python >= 3.10 is needed, $(PYTHON) is " + sys.version.split()[0] + "; choose one with PYTHON=...")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "Error: $(PYTHON) has no venv or ensurepip; install them (Debian: python3-venv)" >&2; exit 1; }
	@command -v nvidia-smi >/dev/null || [ -n "$(TORCH_INDEX)" ] || \
	    echo "No GPU found: if pip downloads CUDA libraries now, TORCH_INDEX (see Makefile) saves gigabytes."
	@echo "Installing the packages of constraints.txt into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet \
	    $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(PIP_ARGS) -r constraints.txt
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps \
	    $(PIP_ARGS) -r constraints-no-deps.txt
	@touch $@

$(OLDEST)/installed: constraints-oldest.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 10), (3, 11)] and \
	    "Error: the oldest torch has builds for Python 3.10 and 3.11 only; choose one with PYTHON=...")'
	@echo "Installing the packages of constraints-oldest.txt into $(OLDEST) ..."
	@$(PYTHON) -m venv $(OLDEST)
	@$(OLDEST)/bin/python -m pip install --disable-pip-version-check --quiet \
	    $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(PIP_ARGS) -r constraints-oldest.txt
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
