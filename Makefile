# The few commands of this project. `make demo` shows it at work, `make test` checks it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
# check uses the environment that is there and installs nothing
RUN = $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m

.PHONY: demo test test-slow test-faults check lint types docs clean

demo: $(VENV)/.installed ## train ResNet-20 on handwritten digits, evaluate, draw the curves
	$(BIN)/residual train resnet20 --data digits

test: $(VENV)/.installed-dev ## install what is missing and run the tests
	$(BIN)/python -m pytest -m 'not slow and not faults'

test-slow: $(VENV)/.installed-dev ## run the tests that take long
	$(BIN)/python -m pytest -m 'slow and not faults'

test-faults: $(VENV)/.installed-dev ## inject every fault many times; writes results/faults, of which docs/reliability.md is made
	RESIDUAL_FAULTS=results/faults $(BIN)/python -m pytest -m faults

check: lint types ## lint, format, types and tests, in the environment that is there
	$(RUN) pytest -m 'not slow and not faults'

lint:
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types:
	$(RUN) mypy

docs: $(VENV)/.installed-docs ## build the documentation into site/; any warning is an error
	$(BIN)/zensical build --clean --strict

clean:
	rm -rf $(VENV) build dist site .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) -e '.[docs]'
	touch $@
