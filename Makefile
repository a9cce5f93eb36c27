# make demo    installs everything into .venv and finds vowels and consonants in 50,000 words
# make test    runs all tests
# make soak    a run through random faults for some minutes; more of them: make soak ARGS="--faults 500 --seed 1"
# make check   style, types, who imports whom, public names
# make clean   removes what these have made, except runs/

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test soak check clean

help:
	@sed -n 's/^# //p' Makefile

demo: $(VENV)/.for-demo
	$(BIN)/distmc demo $(ARGS)

# Many small arrays: more threads than the tests themselves ask for only slow each other down.
# A process that is aborted ends the tests: what was shared out to it nobody else would run, nor would the end ever come.
test: export OMP_NUM_THREADS = 1
test: export OPENBLAS_NUM_THREADS = 1
test: $(VENV)/.for-development
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(ARGS)

soak: $(VENV)/.for-development
	$(BIN)/python benchmarks/soak.py $(ARGS)

check: $(VENV)/.for-development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/contracts/test_public_names.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find distmc tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "distmc needs Python 3.11 or newer, but '$(PYTHON) --version' says: $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "Install one and name it, for instance: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 14))' || { \
	  echo "Note: constraints.txt pins versions for Python 3.11 to 3.13, but '$(PYTHON) --version' says:" \
	    "$$($(PYTHON) --version 2>&1)." >&2; \
	  echo "If installing fails, name an older one, for instance: make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: its modules venv and ensurepip are missing." >&2; \
	  echo "Install them (on Debian and Ubuntu the package python3-venv), or name another Python with PYTHON=." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.for-demo: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing distmc and what it needs into $(VENV); this takes a minute or two the first time."
	@$(INSTALL) -e '.[examples]'
	@touch $@

$(VENV)/.for-development: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing distmc with all that its tests and checks need into $(VENV)."
	@$(INSTALL) -e '.[examples,test,check]'
	@touch $@ $(VENV)/.for-demo
