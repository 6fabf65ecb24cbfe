# Everything here works from a fresh clone with nothing else typed: each target sets up .venv first.
# Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help demo test test-slow lint mutants bench-queue docs lock types check-examples check-gltf

help:
	@echo "make demo     the whole pipeline on this machine: Postgres, S3, a training, a picture, a revocation"
	@echo "make test     the whole suite, but for the slow tests"
	@echo "make test-slow  the tests at published sizes, and the long trainings of further families"
	@echo "make lint     style, format, types, import contracts"
	@echo "make mutants  take one protection away at a time: the suite must notice"
	@echo "make bench-queue  the claim loop beside the smallest one that is right, each figure beside its goal; ten minutes"
	@echo "make docs     the documentation as a site, in build/docs"
	@echo "make lock     requirements.lock from pyproject.toml; delete it first to take newer versions"
	@echo "make types    examples/types.ts from the catalog"
	@echo "make check-examples  the examples' JavaScript against their types; needs npm"
	@echo "make check-gltf  a model's files against glTF's validator; needs npm"
	@echo "Another Python (3.11 or newer): make demo PYTHON=python3.12"

demo: $(INSTALLED)
	$(BIN)/worker demo

# One process more than two cores have: tests of pods wait a lot.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 3 --dist loadfile -m "not slow"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

mutants: $(INSTALLED)
	$(BIN)/python tests/mutants/run.py

bench-queue: $(INSTALLED)
	$(BIN)/python -m bench.queue

# The reference pages are made anew first; a test compares them with the code too.
docs: $(INSTALLED)
	$(BIN)/python -m tools.reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# For Docker and pods. Universal: one file for every Python that pyproject.toml allows.
lock: $(INSTALLED)
	$(BIN)/uv pip compile pyproject.toml --extra gpu --extra mesh --extra build --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --custom-compile-command 'make lock' --quiet --output-file requirements.lock

types: $(INSTALLED)
	$(BIN)/python -m tools.types_ts

check-examples: $(INSTALLED)
	$(BIN)/python -m tools.check_examples

check-gltf: $(INSTALLED)
	$(BIN)/python -m tools.check_gltf

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'Python 3.11 or newer is needed; name one: make PYTHON=python3.12' >&2; exit 1; }
	@echo 'Setting up .venv. The first time this downloads about 5 GB, most of it PyTorch.'
	$(PYTHON) -m venv .venv
	# basicsr, of the extra realesrgan, needs what the package itself installs, to be built: in isolation, or before it, it
	# would fetch a second PyTorch.
	$(BIN)/python -m pip install --disable-pip-version-check setuptools wheel cython --editable .
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation "basicsr; python_version < '3.13'"
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	# opencv-python needs a desktop's libraries. Removing it removes the folder that it shares with the headless one, which
	# pip then takes for installed.
	$(BIN)/python -m pip uninstall --disable-pip-version-check --yes opencv-python
	$(BIN)/python -m pip install --disable-pip-version-check --force-reinstall --no-deps opencv-python-headless
	touch $@
