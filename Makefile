# Everything a newcomer needs; only Python 3.11+, make and a package index are assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two test processes with one thread each beat one process with two, most of all beside other work on the machine. Threads
# that wait for each other sleep: spinning, as is usual, they would keep those from working that they wait for.
PROCESSES ?= 2
OMP_NUM_THREADS ?= 1
PYTEST := OMP_NUM_THREADS=$(OMP_NUM_THREADS) OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(PROCESSES) --durations=10
# What they compute with, or how it rounds, is the processor's: networks, training, the engine, plans of memory.
PROCESSOR_TESTS := tests/engine tests/parity tests/training tests/inspection/test_memory.py tests/test_memory_budget.py \
	tests/models/test_contract.py tests/models/test_resnet.py

.PHONY: setup help demo test coverage test-processor test-slow lint format docs clean

setup: $(VENV)/.ready-test  ## a virtual environment in .venv, with all that the tests need

help:  ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1 \t/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(VENV)/.ready  ## train LeNet-5 on handwritten digits
	$(BIN)/convatlas train lenet5 --data digits --image-size 28

test: $(VENV)/.ready-test  ## the fast tests: every family of networks, minutes
	$(PYTEST)

coverage: $(VENV)/.ready-test  ## the fast tests, and which lines they ran; twice as long
	$(PYTEST) --cov --cov-report=term

test-processor: $(VENV)/.ready-test  ## those of the fast tests that depend on the processor
	$(PYTEST) $(PROCESSOR_TESTS)

test-slow: $(VENV)/.ready-test  ## all networks, whole trainings, and a browser
	$(PYTEST) -m "slow or browser" tests

lint: $(VENV)/.ready-lint  ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready-lint  ## what ruff can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.ready-docs  ## the site, links checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## throw away all that was made
	rm -rf $(VENV) build dist site src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "convatlas needs Python 3.11 or newer; this is $$($(PYTHON) --version). Use make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

# make demo is ready first; extras come on top of it
$(VENV)/.ready-%: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@
