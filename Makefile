# `make demo` and `make test` install what they need into .venv and change nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo test repeat lint clean

help:
	@echo "make demo         raw events -> store -> verify -> pictures -> training -> plot, in ./demo"
	@echo "make lint         style, types and import contracts"
	@echo "make test         lint and all tests"
	@echo "make test-oldest  the quick tests with the oldest supported dependencies"
	@echo "make repeat       the tests 20 times in a row (RUNS=20); takes hours"

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
	$(BIN)/lint-imports --no-logo

# The tests start hundreds of programs; without bytecode each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

PYTEST := $(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

test: lint
	$(PYTEST) --durations=15

# Run the suite RUNS times, stopping at the first failure, to find tests that fail by chance.
RUNS ?= 20
repeat: $(INSTALLED)
	@for run in $$(seq $(RUNS)); do echo "run $$run of $(RUNS)"; $(PYTEST) -q || exit 1; done

clean:
	rm -rf $(VENV) demo
