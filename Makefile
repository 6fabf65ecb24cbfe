# Everything here works from a fresh clone with nothing else typed: each target sets up .venv first.
# Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help demo test lint mutants

help:
	@echo "make demo     the whole way on this machine: Postgres, S3, a training, a picture, a revocation"
	@echo "make test     the whole suite"
	@echo "make lint     style, format, types, import contracts"
	@echo "make mutants  take one protection away at a time: the suite must notice"
	@echo "Another Python (3.11 or newer): make demo PYTHON=python3.12"

demo: $(INSTALLED)
	$(BIN)/worker demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

mutants: $(INSTALLED)
	$(BIN)/python tests/mutants/run.py

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'Python 3.11 or newer is needed; name one: make PYTHON=python3.12' >&2; exit 1; }
	@echo 'Setting up .venv. The first time this downloads about 5 GB, most of it PyTorch.'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	touch $@
