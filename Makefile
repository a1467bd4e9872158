# `make demo` and `make test` install what they need into .venv and change nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo docs package test test-oldest repeat lint clean

help:
	@echo "make demo         raw events -> store -> verify -> pictures -> training -> plot, in ./demo"
	@echo "make docs         the documentation site, in ./build/site"
	@echo "make package      wheel and source archive in ./dist, each tried in a clean environment"
	@echo "make lint         style, types and import contracts"
	@echo "make test         lint and all tests"
	@echo "make test-oldest  the quick tests with the oldest supported dependencies"
	@echo "make repeat       the tests 20 times in a row (RUNS=20); takes hours"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e ".[all]"
	$(BIN)/pip install --quiet --no-deps -c constraints.txt spikingjelly norse nirtorch
	touch $(INSTALLED)

demo: $(INSTALLED)
	PATH="$(abspath $(BIN)):$$PATH" python tools/demo.py demo

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

package: $(INSTALLED)
	$(BIN)/python tools/package.py dist

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

# The oldest versions that pyproject.toml allows, in an environment of their own. torch is the
# exception: its old releases for the CPU are not on PyPI, so this run has the version of
# constraints.txt, and the lower bound of torch is untested. Warnings of old libraries are no errors.
OLDEST := .venv-oldest
RUNTIME_EXTRAS := --extra train --extra video --extra recordings --extra rosbag --extra s3 --extra dask --extra demo
SLOW := tests/faults tests/hostile/test_damage.py tests/test_benches.py tests/test_load.py \
	tests/train/test_bench_neuron.py

test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet uv -c constraints.txt torch
	$(OLDEST)/bin/uv pip compile --quiet --no-header --no-annotate --resolution lowest-direct \
		$(RUNTIME_EXTRAS) --extra test pyproject.toml --output-file $(OLDEST)/all.txt
	grep -vE '^(torch|triton|nvidia-.*)==' $(OLDEST)/all.txt > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --no-deps -r $(OLDEST)/oldest.txt
	$(OLDEST)/bin/pip install --quiet --no-deps -e .
	$(OLDEST)/bin/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile -q -W default \
		$(foreach path,$(SLOW),--ignore=$(path))

# Run the suite RUNS times, stopping at the first failure, to find tests that fail by chance.
RUNS ?= 20
repeat: $(INSTALLED)
	@for run in $$(seq $(RUNS)); do echo "run $$run of $(RUNS)"; $(PYTEST) -q || exit 1; done

clean:
	rm -rf $(VENV) $(OLDEST) demo
