# Everything a newcomer needs; each target sets up what it uses.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install quickstart test lint docs package matrix bench

install: $(STAMP)

# torch comes first: DeepSpeed is built from source against it, outside pip's isolated build environment.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "setting up $(VENV): a few minutes, about 3 GB"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch setuptools wheel ninja
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/codd train quickstart

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# dist/: wheel and sdist, tried in an environment of their own
package: $(STAMP)
	$(BIN)/python .ci/package.py

# The library's tests on the oldest supported versions and on the newest that pip finds: docs/versions.md
matrix: matrix-oldest matrix-newest

CHOSEN_oldest := --constraint constraints-oldest.txt
CHOSEN_newest := --upgrade

matrix-%:
	$(PYTHON) -m venv build/$@
	build/$@/bin/python -m pip install --quiet --disable-pip-version-check $(CHOSEN_$*) --editable . pytest hypothesis
	build/$@/bin/python -m pip list --format freeze | grep -E '^(torch|lightning|transformers)=='
	build/$@/bin/python -m pytest tests/backbones tests/circuits tests/decoding tests/modules

bench: $(STAMP)
	$(BIN)/python benchmarks/circuits.py
	$(BIN)/python benchmarks/paper_scale.py
