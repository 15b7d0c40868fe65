PYTHON ?= python3
BIN := .venv/bin
PIP := pip install --quiet --disable-pip-version-check
# A file's tests stay together, because they share what is slow to make.
SUITE := pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

.PHONY: demo test test-faults test-newest test-oldest lint

demo: .venv/package
	$(BIN)/rvm demo

test: .venv/test
	$(BIN)/python -m $(SUITE)

# Also what is too slow for `make test`; ends with one table of all faults.
test-faults: .venv/test
	$(BIN)/python -m pytest tests/faults tests/hostile --override-ini=addopts=--import-mode=importlib --numprocesses=2

# The newest of everything, also where Apache Beam wants older packages than a plain install takes (pip says so). What
# the suite passes with is noted: it is what a user is pointed to when a newer package breaks something.
test-newest:
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m $(PIP) --editable '.[test]'
	.venv-newest/bin/python -m $(PIP) --upgrade --upgrade-strategy eager --editable .
	.venv-newest/bin/python -m $(SUITE)
	.venv-newest/bin/python -m rvm_jax.versions > rvm_jax/tested.txt

# Every package at the lower bound that pyproject.toml gives it; for the oldest Python, 3.11.
test-oldest:
	$(PYTHON) -m venv --clear .venv-oldest
	grep -oE '"[A-Za-z0-9_-]+>=[0-9.]+"' pyproject.toml | sed 's/"//g; s/>=/==/' > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m $(PIP) --constraint .venv-oldest/constraints.txt --editable '.[test]'
	.venv-oldest/bin/python -m $(SUITE)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Constraints make installs repeatable; a package index may be set in pip's own configuration.
.venv/package .venv/test .venv/dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m $(PIP) --constraint constraints.txt \
		--editable '.$(if $(filter-out package,$(notdir $@)),[$(notdir $@)])'
	touch $@
