# Every target sets up what it needs: a virtual environment in .venv with the locked dependencies and the package
# itself. Wanted on the machine: Python 3.11 or newer, and nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two workers beat one even on two cores: many tests wait for disks and child processes.
PYTEST_WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest -n $(PYTEST_WORKERS)

.PHONY: help setup demo test check format bench fuzz rpcs torture ci lock clean

help:  ## Show the targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

setup: $(READY)  ## Make the virtual environment.

$(READY): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Perdure needs Python 3.11 or newer; say which: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV) || "$(PYTHON)" -m venv --clear --without-pip $(VENV)
	"$(PYTHON)" -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	"$(PYTHON)" -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## Fulfil 200 orders, be killed in the middle, finish, and prove it.
	$(BIN)/perdure demo

# The same examples and the same order of sets on every machine: what fails, fails again.
test: $(READY)  ## Run the tests (under five minutes on two cores).
	HYPOTHESIS_PROFILE=ci PYTHONHASHSEED=0 $(PYTEST) -m "not torture"

check: $(READY)  ## Lint, format, types, layers, tidiness.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -q tests/tidy

format: $(READY)  ## Put the code into shape.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Measure every row of the budget table (some minutes; leave the machine alone).
	$(BIN)/python -m bench

rpcs: $(READY)  ## Print the table of RPCs into docs/rpcs.md.
	$(BIN)/python -m tests.tidy.rpcs_page

fuzz: $(READY)  ## Send the server made-up requests for ten minutes.
	PYTHONHASHSEED=0 PERDURE_FUZZ_S=$${PERDURE_FUZZ_S:-600} $(BIN)/python -m pytest -q tests/unit/server/test_fuzz.py -m torture -k minutes

torture: $(READY)  ## The long crash tests; PERDURE_TORTURE_SHARE=10 runs a tenth of them.
	PYTHONHASHSEED=0 $(PYTEST) -m torture --timeout 3600

ci:  ## What continuous integration runs.
	.ci/run

lock: $(READY)  ## Resolve the dependencies anew and pin them.
	"$(PYTHON)" -m venv --clear build/lock
	build/lock/bin/python -m pip install --quiet uv
	build/lock/bin/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-emit-index-url --no-header --quiet --output-file build/requirements.lock
	{ sed -n '/^#/!q;p' requirements.lock; cat build/requirements.lock; } > build/requirements.new
	mv build/requirements.new requirements.lock

clean:  ## Remove what the targets made.
	rm -rf $(VENV) build dist bench/results .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
