# `make demo` and `make test` set up what they need in .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo test repeat lint clean

help:
	@echo "make demo   raw events -> store -> verify -> pictures -> training -> plot, in ./demo"
	@echo "make test   lint, types and tests"
	@echo "make repeat the tests 20 times in a row (RUNS=20): hours"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e ".[all]"
	touch $(INSTALLED)

demo: $(INSTALLED)
	PATH="$(abspath $(BIN)):$$PATH" python tools/demo.py demo

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers=auto

# The tests start hundreds of programs, each of which would compile all of the package anew.
unexport PYTHONDONTWRITEBYTECODE

PYTEST := $(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

test: lint
	$(PYTEST) --durations=15

# No test may depend on luck: the suite RUNS times in a row, until one run fails.
RUNS ?= 20
repeat: $(INSTALLED)
	@for run in $$(seq $(RUNS)); do echo "run $$run of $(RUNS)"; $(PYTEST) -q || exit 1; done

clean:
	rm -rf $(VENV) demo
