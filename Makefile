# Needs Python 3.11 or newer, git and make; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
# Processes that the fast tests are shared among; each takes up to 2 GB of memory.
WORKERS ?= 2
# What takes long: real Ray, several ranks, object stores, killed processes, more cases of a fact.
FAST := not gpu and not slow and not thorough and not ray and not ranks and not store and not faults and not cluster
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help demo test test-all chaos lint docs bench install clean
help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## */\t/' | expand -t 12

demo: $(STAMP)  ## real digits, a real tiny CLIP, 40 students: verdicts, a report, an MLflow store
	$(BIN)/python -m sweep.run --grid demo

test: $(DEV)  ## the fast tests: no Ray, no ranks, nothing killed
	$(BIN)/python -m pytest -n $(WORKERS) -m "$(FAST)"

test-all: $(DEV)  ## every test that needs no GPU
	$(BIN)/python -m pytest -m "not gpu"

chaos: $(DEV)  ## random faults in a small sweep for up to an hour, as a table in docs/reliability.md
	$(BIN)/python -m tests.faults.chaos.run

lint: $(DEV)  ## ruff, pyright, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(DEV)  ## the documentation as a site in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(DEV)  ## ratios against what one would use instead, as a table in docs/performance.md
	$(BIN)/python benchmarks/run_all.py

install: $(DEV)  ## .venv with all that development needs

USE := deepspeed
DEVELOPMENT := deepspeed,aws,export,dev,docs
define environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 demo")'
test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -c constraints.txt -e '.[$(1)]'
endef

# Python compiles a module when it is first imported: pip would compile all of torch and Ray at once.
$(STAMP): pyproject.toml constraints.txt
	$(call environment,$(USE))
	touch $@

$(DEV): pyproject.toml constraints.txt
	$(call environment,$(DEVELOPMENT))
	touch $(STAMP) $@

clean:  ## removes .venv and all that was built
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
