# Two commands do everything for a newcomer: `make demo` and `make test`. Both need python3 >= 3.11 and make, no more.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-lock
# One worker more than the smallest machine that we promise has cores: a test with real servers waits half of its time.
JOBS ?= 3

.PHONY: help venv demo test test-long scenarios lint format soak chaos weather torture bench lock clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

venv: $(STAMP)  ## the virtual environment, from requirements.lock

# A stamp file, not the folder: an installation that broke off half-way is done again.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || \
	  { echo "error: $(PYTHON) was not found"; echo "hint: install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3"; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11: $$($(PYTHON) --version 2>&1)"; \
	    echo "hint: install Python 3.11 or newer, or name it: make PYTHON=python3.12"; exit 1; } >&2
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "error: $(PYTHON) has no venv module"; echo "hint: on Debian and Ubuntu: apt install python3-venv"; exit 1; } >&2
	@echo "making the virtual environment in $(VENV) (once; about a minute)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

demo: $(STAMP)  ## protect a CRM's PostgreSQL, destroy it, recover it: the whole story in three minutes
	@$(BIN)/threefold demo $(ARGS)

test: $(STAMP)  ## every test but the next two lines'; PYTEST="tests/unit -k lsn" for some
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations 15 -m "not soak and not scenarios and not long" $(PYTEST)

test-long: $(STAMP)  ## those that take the better part of a minute each: switches, rebuilt copies, the spool, chaos; more seeds
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations 15 -m "long and not soak and not scenarios" $(PYTEST)

scenarios: $(STAMP)  ## whole sites fail in network namespaces, each in its own way (root); PYTEST="-k partition" for some
	@$(BIN)/python -m pytest -n 0 -m scenarios --durations 0 tests/scenarios $(PYTEST)

lint: $(STAMP)  ## format, ruff, mypy, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP)  ## what the linter can mend by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

soak: $(STAMP)  ## the quorum log's simulation until stopped; prints the first failing seed
	@$(BIN)/python -m tests.simulation.soak $(ARGS)

# WORLD=sites: two sites, three stores and the links between them (root, /dev/net/tun); WORLD=machine: one machine's
# processes and disks, as any user.
WORLD ?= sites
chaos: $(STAMP)  ## sites, stores and links fail at random, many rounds; the ledger judges. SEED=, ROUNDS=, WORLD=machine
	@$(BIN)/python -m tests.$(if $(filter machine,$(WORLD)),acceptance,scenarios).chaos $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(ARGS)

weather: $(STAMP)  ## faults of every kind between the DRaaS server and its stores, many rounds; the ledger judges. SEED=, ROUNDS=
	@$(BIN)/python -m tests.acceptance.weather $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(ARGS)

torture: $(STAMP)  ## our storage server under random operations, kills and power cuts; a model judges. SEED=, OPERATIONS=
	@$(BIN)/python -m tests.torture.campaign $(if $(SEED),--seed $(SEED)) $(if $(OPERATIONS),--operations $(OPERATIONS)) $(ARGS)

bench: $(STAMP)  ## measure against stock PostgreSQL tools, side by side on this machine
	@$(BIN)/python -m bench $(ARGS)

# pip-compile cannot read dependency groups, so they are handed to it as a file.
lock: $(STAMP)  ## pin the newest versions that pyproject.toml allows
	@$(BIN)/python -m pip install --quiet pip-tools
	@$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['dependency-groups']['dev'], sep='\n')" > $(VENV)/dev.in
	@CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --strip-extras --allow-unsafe --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file requirements.lock pyproject.toml $(VENV)/dev.in

clean:  ## removes the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build
